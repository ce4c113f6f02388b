"""What an engine has done and how long it took, as counters that only grow, and who counts."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import msgspec

from engine.records import Record

CallKind = Literal["captions", "answers", "images", "pixels"]


class Counters(Record):
    """Numbers, and counters within counters, that are added and subtracted field by field."""

    def __add__(self, other: Self) -> Self:
        return self._each(operator.add, other)

    def since(self, before: Self) -> Self:
        """What was counted after `before`."""
        return self._each(operator.sub, before)

    __sub__ = since

    def _each(self, combine: Callable[[Any, Any], Any], other: Self) -> Self:
        names = self.__struct_fields__
        return type(self)(**{name: combine(getattr(self, name), getattr(other, name)) for name in names})


class PathWork(Counters):
    """One kind of call."""

    seconds: float = 0.0
    samples: int = 0
    """Captions, images or answers."""
    tokens: int = 0
    """Sampled text tokens or image codes."""

    @property
    def samples_per_second(self) -> float:
        """0 where nothing was done."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """0 where nothing was done."""
        return self.tokens / self.seconds if self.seconds else 0.0


class EngineWork(Counters):
    """All calls of an engine. Of two engines added up, the seconds may have passed at the same time."""

    captions: PathWork = PathWork()
    answers: PathWork = PathWork()
    images: PathWork = PathWork()
    pixels: PathWork = PathWork()
    """Images encoded and decoded."""
    forward_seconds: float = 0.0
    """Inside forward passes of the model that serves."""
    prompt_tokens: int = 0
    """Of captions and decoded answers, each counted as if its prompt were its own."""
    cached_tokens: int = 0
    """Of them, those that were not computed again: cached by vLLM, or shared by an image's captions."""
    decode_steps: int = 0
    decoded_rows: int = 0
    """Sequences that took part in those steps."""

    @property
    def seconds(self) -> float:
        """Inside calls of the engine."""
        return sum(calls.seconds for calls in (self.captions, self.answers, self.images, self.pixels))

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the prompt tokens that were not computed again."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def mean_batch(self) -> float:
        """Sequences in a step of decoding."""
        return self.decoded_rows / self.decode_steps if self.decode_steps else 0.0


class Tally:
    """What one call gave; the call fills it in."""

    samples = 0
    tokens = 0


class Meter:
    """Adds up calls; `counts` asks the worker what it has counted since it started."""

    def __init__(self, counts: Callable[[], EngineWork]) -> None:
        self._counts = counts
        self.work = EngineWork()

    @contextmanager
    def call(self, kind: CallKind) -> Iterator[Tally]:
        """Measures the block as one call, also where it fails; calls do not nest."""
        tally, before, start = Tally(), self._counts(), time.perf_counter()
        try:
            yield tally
        finally:
            done = PathWork(seconds=time.perf_counter() - start, samples=tally.samples, tokens=tally.tokens)
            counts = self._counts().since(before)
            self.work += msgspec.structs.replace(counts, **{kind: done})

    def prompts(self, tokens: int, cached: int) -> None:
        """Counts prompts that were read."""
        self.work += EngineWork(prompt_tokens=tokens, cached_tokens=cached)
