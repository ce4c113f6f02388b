"""Settings of a gap measurement."""

from __future__ import annotations

from engine.errors import ConfigError
from engine.records import AnswerSettings, ImageSettings, Record


class EvalConfig(Record, forbid_unknown_fields=True):
    """How the gap is measured; the same for every round of a run."""

    limit: int = 300
    """Held-out items."""
    images: int = 2
    """Images generated for each item."""
    split: str = "evaluation"
    """Of the embedded world: evaluation or validation."""
    seed: int = 1000
    """Decides the held-out items of the embedded world, and with an item's id what is generated for it."""
    chunk: int = 32
    """Items in flight together."""
    image: ImageSettings = ImageSettings()
    answer: AnswerSettings = AnswerSettings()

    def __post_init__(self) -> None:
        for name in ("limit", "images", "chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"eval.{name} is {getattr(self, name)}; it must be at least 1")
