"""Where a measurement runs, at which size, and what it gives back."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from benchmarks.speed.bench import in_turns, settle

T = TypeVar("T")


class NotRunError(Exception):
    """Something that a measurement needs is not here."""


class Place:
    """A device, whether sizes are the smallest ones, and what measurements share.

    `golden` is the folder of the reference implementation's recorded arrays.
    """

    def __init__(self, device: torch.device, dry: bool, golden: Path | None = None) -> None:
        self.device, self.dry, self.golden = device, dry, golden
        self._shared: dict[object, Any] = {}
        self._stack = ExitStack()

    def share(self, make: Callable[[Place], AbstractContextManager[T]]) -> T:
        """What `make` opens, opened once and closed by `drop`."""
        if make not in self._shared:
            self._shared[make] = self._stack.enter_context(make(self))
        found: T = self._shared[make]
        return found

    def drop(self) -> None:
        """Closes what is shared, and gives back what measurements held."""
        self._shared.clear()
        self._stack.close()
        self.clear()

    def clear(self) -> None:
        """Gives back what the last measurement held and does not share."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def pick(self, full: T, small: T) -> T:
        """The size that is wanted here."""
        return small if self.dry else full

    def seconds(
        self, sides: Mapping[str, Callable[[int], object]], rounds: int = 5
    ) -> dict[str, list[float]]:
        """Of every side in every round, in turns, the device's own work included; one round goes before."""
        return in_turns(sides, self.pick(rounds, 1))

    def peak_gib(self, work: Callable[[], object]) -> float:
        """The most memory held during some work: of the device, or altogether by a process on a CPU."""
        if self.device.type == "cpu":
            work()
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        torch.cuda.reset_peak_memory_stats()
        work()
        settle()
        return torch.cuda.max_memory_allocated() / 2**30


class Found(NamedTuple):
    """What a measurement gives back."""

    work: str
    """What was done, in one line."""
    figures: Mapping[str, Sequence[float] | str]
    """Each figure in every round, or the reason why it could not be taken."""


Measure = Callable[[Place], Found]


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """One over the other in every round."""
    return [a / b for a, b in zip(one, other, strict=True)]
