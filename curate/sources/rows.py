"""What a source gives row by row, and what every kind of data set must be able to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from PIL import Image

from engine.records import Item, Record


class RowProblem(Record):
    """A row that cannot be used, and why."""

    where: str
    reason: str


def printable(text: str) -> str:
    """Text that can be written as UTF-8 whatever bytes a file's name or row has."""
    return text.encode(errors="backslashreplace").decode()


class DataRow(Record):
    """One row of a data set: an item, or the reason why there is none."""

    position: int
    """Ordinal among all rows of the source, from 0; usable or not, a row keeps it, and so do its captions."""
    where: str
    """For people: "items.jsonl:17", "data-00001.parquet:row 12", "shard-3.tar:000123"."""
    item: Item | None = None
    reason: str = ""
    """Why the row is quarantined; empty where it has an item."""
    dropped: tuple[str, ...] = ()
    """Why questions of a usable item were left out, one reason a question."""
    shared: str = ""
    """What all rows of the same image have in common; empty where that is unknown."""


class Reader(Protocol):
    """One data set on disk (or the embedded world), without splits or selection."""

    name: str
    """The data set, as its user named it."""
    oracle: bool
    """Whether the pixel oracle can judge images of these items."""
    is_split: bool
    """Whether the rows already belong to one split, so that none need be held out."""

    def digest(self) -> str:
        """Fingerprint of the annotations (`curate.sources.digest`)."""
        ...

    def rows(self) -> Iterator[DataRow]:
        """Every row, in the same order each time. Opens no image."""
        ...

    def image(self, item: Item) -> Image.Image:
        """An item's image in mode RGB. Raises DataError where it cannot be read."""
        ...
