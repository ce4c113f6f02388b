"""A split of a data set, row by row, with selection and limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.sources.fields import shown
from curate.sources.images import square
from curate.sources.rows import Quarantined, Reader, Row, Tally
from curate.sources.seen import SeenIds
from curate.sources.selection import EVERYTHING, selection_bound, selection_hash
from engine.errors import DataError
from engine.records import Item, Record

SPLITS = ("train", "evaluation")
_HELD_OUT = 5
"""Every fifth row is held out, by its place in the data set, so that training and evaluation never meet."""


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
    seed: int = 0
    """Of the selection."""
    bound: int = EVERYTHING
    """An item is selected where its hash under `seed` does not exceed this."""
    asking: Callable[[Item], Item] | None = None
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

    def rows(self, tally: Tally | None = None) -> Iterator[Row]:
        """The selected items and every quarantined row of the split, always in the same order.

        Opens no image. Memory does not grow with the rows but for 12 to 24 bytes an id, kept to find ids that
        occur twice: the first usable row of an id counts. `tally` counts every row of the split that passes,
        also those that are not selected, but for the skipped.

        Raises:
            DataError: the data set cannot be read on.
        """
        passed = taken = 0
        for row in self._rows_of_split():
            selected = row.item is None or self._selects(row.item)
            if selected and passed < self.skip:
                passed += row.item is not None
                continue
            if tally is not None:
                tally.add(row, selected)
            if selected:
                taken += row.item is not None
                yield self._asked(row)
            if self.limit and taken == self.limit:
                return

    def _asked(self, row: Row) -> Row:
        if row.item is None or self.asking is None:
            return row
        return msgspec.structs.replace(row, item=self.asking(row.item))

    def _selects(self, item: Item) -> bool:
        return self.bound == EVERYTHING or selection_hash(self.seed, item.id) <= self.bound

    def _rows_of_split(self) -> Iterator[Row]:
        seen = SeenIds()
        try:
            for row in self.reader.rows():
                if row.item is None:
                    row = _quarantined(row, row.reason)
                elif not seen.add(row.item.id):
                    row = _quarantined(row, f"id {shown(row.item.id)} occurs twice")
                held_out = row.position % _HELD_OUT == _HELD_OUT - 1
                if self.reader.is_split or not self.split or held_out == (self.split == "evaluation"):
                    yield row
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read: {error}") from error

    def items(self, tally: Tally | None = None) -> tuple[Item, ...]:
        """All items at once, for callers that need a few."""
        return tuple(row.item for row in self.rows(tally) if row.item is not None)

    def image(self, item: Item) -> NDArray[np.uint8]:
        """uint8 [image_size, image_size, 3] of an item of this source.

        Raises:
            DataError: the image is missing, outside the data set, damaged or too large.
        """
        return square(self.reader.image(item), self.image_size)

    def images(self, items: Sequence[Item]) -> tuple[list[Item], NDArray[np.uint8], list[Quarantined]]:
        """The items whose image can be read; these images, uint8 [B, H, W, 3] as from `image`; the others."""
        kept, pixels, bad = [], [], []
        for item in items:
            try:
                pixels.append(self.image(item))
                kept.append(item)
            except DataError as error:
                bad.append(Quarantined(where=item.id, reason=_printable(str(error))))
        shape = (0, self.image_size, self.image_size, 3)
        return kept, np.stack(pixels) if pixels else np.zeros(shape, np.uint8), bad


def _quarantined(row: Row, reason: str) -> Row:
    return Row(position=row.position, where=_printable(row.where), reason=_printable(reason))


def _printable(text: str) -> str:
    """Text that can be written as UTF-8 whatever bytes a file's name has."""
    return text.encode(errors="backslashreplace").decode()


def select(source: Source, number: int, seed: int) -> Source:
    """A reproducible random subset of `number` items, or all where there are no more; in the source's order.

    Reads the source once, holding `number` hashes. What is taken depends on the seed and the ids alone
    (`curate.sources.selection`).

    Raises:
        DataError: the source is endless, or cannot be read.
    """
    if source.reader.is_split:
        raise DataError("the embedded shapes are drawn at random: say how many with --limit, not --select")
    everything = msgspec.structs.replace(source, limit=0, bound=EVERYTHING)
    ids = (row.item.id for row in everything.rows() if row.item is not None)
    return msgspec.structs.replace(source, seed=seed, bound=selection_bound(ids, number, seed))
