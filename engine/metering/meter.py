"""Counts an engine's work call by call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import msgspec

from engine.metering.counters import EngineWork, PathWork

Path = Literal["captions", "answers", "images", "pixels"]


class Counts(NamedTuple):
    """What a worker has counted since it started."""

    forward_seconds: float
    decode_steps: int
    decoded_rows: int


class Tally:
    """What one call gave; the call fills it in."""

    def __init__(self) -> None:
        self.samples = 0
        self.tokens = 0


class Meter:
    """Adds up calls; `counts` asks the worker."""

    def __init__(self, counts: Callable[[], Counts]) -> None:
        self._counts = counts
        self.work = EngineWork()

    @contextmanager
    def call(self, path: Path) -> Iterator[Tally]:
        """Measures the block as one call, also where it fails; calls do not nest."""
        tally, before, start = Tally(), self._counts(), time.perf_counter()
        try:
            yield tally
        finally:
            seconds, after = time.perf_counter() - start, self._counts()
            done: PathWork = getattr(self.work, path)
            done = PathWork(
                seconds=done.seconds + seconds,
                samples=done.samples + tally.samples,
                tokens=done.tokens + tally.tokens,
            )
            grown = {
                name: getattr(self.work, name) + now - then
                for name, now, then in zip(Counts._fields, after, before, strict=True)
            }
            self.work = msgspec.structs.replace(self.work, **{path: done}, **grown)

    def prompts(self, tokens: int, cached: int) -> None:
        """Counts requests that vLLM has answered."""
        self.work = msgspec.structs.replace(
            self.work,
            prompt_tokens=self.work.prompt_tokens + tokens,
            cached_tokens=self.work.cached_tokens + cached,
        )
