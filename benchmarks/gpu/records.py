"""What a stage leaves behind."""

from __future__ import annotations

import hashlib
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from typing import Self

import torch

from benchmarks.gpu.place import ROOT
from benchmarks.timing import machine
from engine.records import Record

SHOWN = ("torch", "triton", "vllm", "deepspeed")
"""Packages that the table names."""


class Setting(Record):
    """What figures belong to; those of another card, code or version are measured again."""

    card: str
    memory_gib: float
    driver: str
    python: str
    versions: dict[str, str]
    code: str
    """Digest of the packages whose code runs."""
    dry: bool

    @classmethod
    def here(cls, device: torch.device, dry: bool) -> Self:
        """This machine's, on a device."""
        found, card, memory = machine(), "", 0.0
        if device.type == "cuda":
            card, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1] / 2**30
        return cls(
            card=card or found.processor,
            memory_gib=round(memory, 1),
            driver=_driver() if card else "",
            python=found.python,
            versions=found.versions,
            code=_code(),
            dry=dry,
        )

    def line(self) -> str:
        """In one line."""
        parts = [self.card, *([f"driver {self.driver}"] if self.driver else [])]
        parts += [f"{name} {self.versions[name]}" for name in SHOWN if name in self.versions]
        return ("dry: " if self.dry else "") + ", ".join([*parts, f"code {self.code}"])


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.split("\n")[0] or "unknown"


def _code() -> str:
    digest = hashlib.blake2b(digest_size=6)
    for package in ("benchmarks", "engine", "train"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in (".py", ".cpp"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


class Figure(Record):
    """One number of each round, summed up."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of all rounds."""
        return cls(statistics.median(values), min(values), max(values), len(values))


class Outcome(Record):
    """What came of one measurement."""

    work: str = ""
    """What was done, in one line."""
    seconds: float = 0.0
    figures: dict[str, Figure] = {}
    missing: dict[str, str] = {}
    """Figures that could not be taken, with the reason."""
    reason: str = ""
    """Why there is none at all."""


class Result(Record):
    """A stage's file."""

    stage: str
    setting: Setting
    outcomes: dict[str, Outcome]
