"""What an engine has done and how long it took, as counters that only grow."""

from __future__ import annotations

from engine.records import Record


class PathWork(Record):
    """One kind of call."""

    seconds: float = 0.0
    samples: int = 0
    """Captions, images or answers."""
    tokens: int = 0
    """Generated, or painted."""

    @property
    def samples_per_second(self) -> float:
        """0 where nothing was done."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """0 where nothing was done."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def since(self, before: PathWork) -> PathWork:
        """What was done after `before`."""
        return PathWork(
            seconds=self.seconds - before.seconds,
            samples=self.samples - before.samples,
            tokens=self.tokens - before.tokens,
        )

    def __add__(self, other: PathWork) -> PathWork:
        return PathWork(
            seconds=self.seconds + other.seconds,
            samples=self.samples + other.samples,
            tokens=self.tokens + other.tokens,
        )


class EngineWork(Record):
    """All calls of an engine."""

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
        return sum(path.seconds for path in (self.captions, self.answers, self.images, self.pixels))

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the prompt tokens that were not computed again."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def mean_batch(self) -> float:
        """Sequences in a step of decoding."""
        return self.decoded_rows / self.decode_steps if self.decode_steps else 0.0

    def since(self, before: EngineWork) -> EngineWork:
        """What was done after `before`."""
        paths = {name: getattr(self, name).since(getattr(before, name)) for name in PATHS}
        counts = {name: getattr(self, name) - getattr(before, name) for name in COUNTS}
        return EngineWork(**paths, **counts)

    def __add__(self, other: EngineWork) -> EngineWork:
        """The work of two engines; their seconds may have passed at the same time."""
        both = {name: getattr(self, name) + getattr(other, name) for name in (*PATHS, *COUNTS)}
        return EngineWork(**both)


PATHS = ("captions", "answers", "images", "pixels")
COUNTS = ("forward_seconds", "prompt_tokens", "cached_tokens", "decode_steps", "decoded_rows")
