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
from benchmarks.speed.timing import machine
from engine.records import Record

DRY = "dry: "
"""How the setting of figures begins that are no results."""


def setting(device: torch.device, dry: bool) -> str:
    """Card, versions and digest of the code that figures belong to; those of others are measured again."""
    found, digest = machine(), hashlib.blake2b(digest_size=6)
    parts = [found.processor]
    if device.type == "cuda":
        parts = [torch.cuda.get_device_name(), f"driver {_driver()}"]
    for package in ("benchmarks", "curate", "engine", "hermes_cli", "train"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in (".py", ".cpp"):
                digest.update(path.read_bytes())
    parts += [f"{name} {version}" for name, version in found.versions.items()]
    return (DRY if dry else "") + ", ".join([*parts, f"code {digest.hexdigest()}"])


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.split("\n")[0] or "unknown"


class Figure(Record):
    """One number of each round, summed up."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of all rounds."""
        median, low, high = (float(take(values)) for take in (statistics.median, min, max))
        return cls(median, low, high, len(values))


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
    setting: str
    outcomes: dict[str, Outcome]
