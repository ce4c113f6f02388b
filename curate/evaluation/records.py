"""What a gap measurement finds."""

from __future__ import annotations

from pathlib import Path

import msgspec

from curate.evaluation.config import EvalConfig
from curate.sources import RowProblem
from engine.errors import UNREADABLE, DataError
from engine.files.seals import require_sealed
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
    """Over all images generated for the item."""
    gen_asked: int


class GapNumbers(CategoryGap):
    """Of all items: understanding, generation and the gap between them, of one model."""

    gap_se: float
    judge: str
    by_category: dict[str, CategoryGap]
    by_objects: dict[str, CategoryGap]
    by_kind: dict[str, CategoryGap]
    fingerprint: str
    """Of the weights that were measured."""


class EvalOrigin(Record):
    """What decides a measurement beside its weights and settings: two that differ in it are not compared."""

    data: str
    annotations: str
    """Digest of the data set's annotations, its questions among them."""
    questions: str
    """Digest of the file that they come from; empty for the data set's own."""
    matcher: str
    """What matched answers with choices."""
    precision: str
    sampler: str
    device: str
    deterministic: bool


class GapReport(GapNumbers):
    """What `hermes eval` finds."""

    config: EvalConfig
    unreadable: tuple[RowProblem, ...] = ()
    """Items left out since their image cannot be read."""
    per_item: tuple[ItemScore, ...] = ()
    """What rounds are compared by, item by item; early measurements have none."""
    origin: EvalOrigin | None = None
    """Early measurements do not say it."""


def read_gap(path: Path) -> GapReport | None:
    """The measurement in a file; None where there is none.

    Raises:
        DataError: it cannot be read, or is not as it was sealed.
    """
    if not path.is_file():
        return None
    require_sealed(path, "remove it and run `hermes eval`")
    try:
        return msgspec.json.decode(path.read_bytes(), type=GapReport)
    except (OSError, *UNREADABLE) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove it and run `hermes eval`") from error


def readable_gap(path: Path) -> GapReport | None:
    """The measurement in a file; None also where it cannot be read."""
    try:
        return read_gap(path)
    except DataError:
        return None
