"""Settings of a gap measurement."""

from __future__ import annotations

from typing import Literal

from curate.config import refuse, require_at_least
from engine.ranges import image_problems
from engine.records import AnswerSettings, ImageSettings, Record

HeldOut = Literal["evaluation", "validation"]
"""Splits whose items no training sees."""


class EvalConfig(Record, forbid_unknown_fields=True):
    """How the gap is measured; the same for every round of a run."""

    limit: int = 300
    """Held-out items."""
    images: int = 2
    """Images generated for each item."""
    split: HeldOut = "evaluation"
    """Of the embedded world."""
    seed: int = 1000
    """Seed of the embedded world's held-out items and of what is generated."""
    chunk: int = 32
    """Items in flight."""
    image: ImageSettings = ImageSettings()
    answer: AnswerSettings = AnswerSettings()

    def __post_init__(self) -> None:
        require_at_least("eval", self, limit=1, images=1, chunk=1, seed=0)
        refuse("eval.image", image_problems(self.image))
