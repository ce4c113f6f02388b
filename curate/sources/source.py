"""A split of a data set, row by row, with selection and limit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.sources.fields import shown
from curate.sources.images import square
from curate.sources.rows import DataRow, Reader, RowProblem, printable
from engine.errors import DataError
from engine.records import Item, Record

SPLITS = ("train", "evaluation")
_HELD_OUT = 5
"""Every fifth image is held out, by its place in the data set, so that training and evaluation never meet."""
_HALF = (1 << 32) - 1


class SourceCounts(Record):
    """What a source holds."""

    rows: int = 0
    """Its items, and the quarantined rows among them."""
    items: int = 0
    with_questions: int = 0
    """Items that have questions to be asked."""


class Source(Record):
    """Items in a fixed order, and a way to their pixels."""

    reader: Reader
    image_size: int
    """Pixels on a side that the model takes."""
    split: str = ""
    """train, evaluation, or empty for all rows; a reader that is split already gives all it has."""
    limit: int = 0
    """Usable items after which the rows end; 0: none."""
    skip: int = 0
    """Usable items that are passed over before the first."""
    selected: frozenset[str] | None = None
    """Ids of the random subset that the items come from; None is every item."""
    counts: SourceCounts = SourceCounts()
    """Counted when it was loaded, so that nobody need read it for that."""
    replace_questions: Callable[[Item], Item] | None = None
    """Gives items other questions than the data set does."""

    def __post_init__(self) -> None:
        if self.split not in ("", *SPLITS) and not self.reader.is_split:
            raise DataError(f"{self.name}: there is no split {self.split!r}, only {', '.join(SPLITS)}")

    @property
    def name(self) -> str:
        """The data set, as its user named it."""
        return self.reader.name

    @property
    def digest(self) -> str:
        """Fingerprint of the whole data set's annotations; see `curate.sources.digest` for what it sees."""
        return self.reader.digest()

    @property
    def oracle(self) -> bool:
        """Whether the pixel oracle can judge images of these items."""
        return self.reader.oracle

    def rows(self) -> Iterator[DataRow]:
        """The selected items and every quarantined row of the split, always in the same order.

        Opens no image. Memory does not grow with the rows but for their ids, kept to find those that occur
        twice: the first usable row of an id counts, and other captions of its image get an id of their own.

        Raises:
            DataError: the data set cannot be read on.
        """
        passed = taken = 0
        for row in self._rows_of_split():
            if row.item and self.selected is not None and row.item.id not in self.selected:
                continue
            if passed < self.skip:
                passed += row.item is not None
                continue
            taken += row.item is not None
            if row.item and self.replace_questions:
                row = msgspec.structs.replace(row, item=self.replace_questions(row.item))
            yield row
            if self.limit and taken == self.limit:
                return

    def _rows_of_split(self) -> Iterator[DataRow]:
        rows = _Rows()
        try:
            for row in self.reader.rows():
                row, held_out = rows.take(row)
                if self.reader.is_split or not self.split or held_out == (self.split == "evaluation"):
                    yield row
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read: {error}") from error

    def items(self) -> tuple[Item, ...]:
        """All items at once, for callers that need a few."""
        return tuple(row.item for row in self.rows() if row.item is not None)

    def image(self, item: Item) -> NDArray[np.uint8]:
        """uint8 [image_size, image_size, 3] of an item of this source.

        Raises:
            DataError: the image is missing, outside the data set, damaged or too large.
        """
        return square(self.reader.image(item), self.image_size)

    def require_image(self) -> None:
        """Raises DataError where no image at all can be read, before anything costs time."""
        first, tried = "", 0
        for item in (row.item for row in self.rows() if row.item is not None):
            try:
                self.image(item)
                return
            except DataError as error:
                first, tried = first or str(error), tried + 1
        raise DataError(
            f"{self.name}: none of its {tried} images can be read; the first: {first}; "
            "--images DIR names the folder that image names start from"
        )

    def images(self, items: Sequence[Item]) -> tuple[list[Item], NDArray[np.uint8], list[RowProblem]]:
        """The items whose image can be read; these images, uint8 [B, H, W, 3] as from `image`; the others."""
        readable, pixels, bad = [], [], []
        for item in items:
            try:
                pixels.append(self.image(item))
                readable.append(item)
            except DataError as error:
                bad.append(RowProblem(where=item.id, reason=printable(str(error))))
        shape = (0, self.image_size, self.image_size, 3)
        return readable, np.stack(pixels) if pixels else np.zeros(shape, np.uint8), bad


class _Rows:
    """The rows of a data set in order: gives them ids that occur once, and their side of the split."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        """Ids, each with a hash of its image above one of its caption."""
        self._repeated: dict[str, set[int]] = {}
        """The same of all rows that bear an id, where there are several."""
        self._held_out: dict[int, bool] = {}
        """Images, by hash, and whether they are held out."""
        self._repeats = 0
        """Rows of an image that has its place."""
        self._last = (-1, False)

    def take(self, row: DataRow) -> tuple[DataRow, bool]:
        """A row under an id of its own, or quarantined, and whether it is held out.

        An image has its place among all rows that begin another image, so each row of a set of one caption an
        image has its own, and captions of one image stay together.
        """
        row = self._distinct(row, row.item) if row.item else _quarantined(row, row.reason)
        position, held_out = self._last
        known = self._held_out.get(hash(row.shared)) if row.shared else None
        if known is not None:
            self._repeats += row.position != position
            held_out = known
        elif row.position != position:
            held_out = (row.position - self._repeats) % _HELD_OUT == _HELD_OUT - 1
        if row.shared:
            self._held_out[hash(row.shared)] = held_out
        self._last = row.position, held_out
        return row, held_out

    def _distinct(self, row: DataRow, item: Item) -> DataRow:
        """The row; where its id occurred with the same image and another caption, under a new id."""
        content = (hash(row.shared or item.image) & _HALF) << _HALF.bit_length() | hash(item.caption) & _HALF
        first = self._ids.get(item.id)
        if first is None:
            self._ids[item.id] = content
            return row
        seen = self._repeated.setdefault(item.id, {first})
        if content in seen or content | _HALF != first | _HALF:
            return _quarantined(row, f"id {shown(item.id)} occurs twice")
        seen.add(content)
        names = (f"{item.id}#{number}" for number in itertools.count(len(seen) - 1))
        name = next(one for one in names if one not in self._ids)
        self._ids[name] = content
        return msgspec.structs.replace(row, item=msgspec.structs.replace(item, id=name))


def _quarantined(row: DataRow, reason: str) -> DataRow:
    return DataRow(position=row.position, where=printable(row.where), reason=printable(reason))
