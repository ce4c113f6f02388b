"""What a gap measurement finds."""

from __future__ import annotations

from pathlib import Path

import msgspec

from curate.evaluation.config import EvalConfig
from curate.sources import Quarantined
from engine.errors import DataError
from engine.records import Record


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


class GapMeasurement(Record):
    """What `hermes eval` finds: the content of a round's eval.json."""

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


def read_measurement(path: Path) -> GapMeasurement | None:
    """An eval.json; None where there is none.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=GapMeasurement)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: not a measurement: {error}; remove it and run `hermes eval`") from error
