"""What a gap measurement finds."""

from __future__ import annotations

from curate.evaluation.config import EvalConfig
from curate.sources import Quarantined
from engine.records import Record


class Score(Record):
    """An accuracy with its standard error and the number of questions behind it."""

    value: float
    se: float
    questions: int


class CategoryGap(Record):
    """One GenEval category, question kind or object count."""

    und: float
    und_se: float
    gen: float
    gen_se: float
    gap: float
    items: int


class ItemScore(Record):
    """One held-out item: questions answered rightly, and questions asked, on each side."""

    id: str
    und: int
    und_asked: int
    gen: int
    """Over all images painted for the item."""
    gen_asked: int


class GapReport(Record):
    """What `hermes eval` finds."""

    und: float
    und_se: float
    gen: float
    gen_se: float
    gap: float
    gap_se: float
    judge: str
    items: int
    by_category: dict[str, CategoryGap]
    by_objects: dict[str, CategoryGap]
    by_kind: dict[str, CategoryGap]
    fingerprint: str
    config: EvalConfig
    unreadable: tuple[Quarantined, ...] = ()
    """Items left out since their image cannot be read."""
    per_item: tuple[ItemScore, ...] = ()
    """What rounds are compared by, item by item; early measurements have none."""
