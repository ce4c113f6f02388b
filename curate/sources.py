"""Where homologous pairs come from: the embedded shapes, or a folder with a JSON-lines file.

A folder holds `items.jsonl` (one object a line: id, image, caption, questions [{question, choices,
answer}], optionally category and objects) and the images that it names. Rows that cannot be used are
quarantined with their reason, and the rest goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.images import read_rgb, square
from curate.shapes import world
from engine.errors import DataError
from engine.records import Item, Record

SHAPES = "shapes"


class Quarantined(Record):
    """A row that cannot be used, and why."""

    where: str
    reason: str


class Source(Record):
    """Items in a fixed order, and a way to their pixels."""

    name: str
    items: tuple[Item, ...]
    image: Callable[[Item], NDArray[np.uint8]]
    """Pixels of an item, uint8 [H, W, 3], square, of the model's size."""
    oracle: bool
    """Whether the pixel oracle can judge images of these items."""
    quarantined: tuple[Quarantined, ...] = ()


def load_source(data: str, split: str, limit: int, seed: int, image_size: int) -> Source:
    """`limit` items of a split (0: all; the embedded world needs a limit).

    Raises:
        DataError: the folder or its items.jsonl is missing, or no row can be used.
    """
    if data == SHAPES:
        if limit < 1:
            raise DataError("the embedded shapes are endless: say how many items with --limit")
        items = tuple(world.item(split, seed, index)[0] for index in range(limit))
        return Source(name=SHAPES, items=items, image=lambda item: world.image_of(item.id), oracle=True)
    return _folder_source(Path(data), split, limit, image_size)


def _folder_source(folder: Path, split: str, limit: int, image_size: int) -> Source:
    listing = folder / "items.jsonl"
    if not listing.is_file():
        raise DataError(f"{folder}: no items.jsonl here; --data takes `shapes` or a folder that holds one")
    items: list[Item] = []
    bad: list[Quarantined] = []
    seen: set[str] = set()
    for number, row in _rows(listing):
        item = _checked(row, folder, seen)
        if isinstance(item, Item):
            seen.add(item.id)
            items.append(item)
        else:
            bad.append(Quarantined(where=f"{listing.name}:{number}", reason=item))
    # Every fifth item is held out, by its place in the file, so that training and evaluation never meet.
    held_out = [item for i, item in enumerate(items) if i % 5 == 4]
    chosen = held_out if split == "evaluation" else [item for i, item in enumerate(items) if i % 5 != 4]
    if not chosen:
        raise DataError(f"{listing}: no usable item for the {split} split; first problem: {_first(bad)}")
    return Source(
        name=str(folder),
        items=tuple(itertools.islice(chosen, limit or None)),
        image=lambda item: square(read_rgb(folder / item.image), image_size),
        oracle=False,
        quarantined=tuple(bad),
    )


def _first(bad: list[Quarantined]) -> str:
    return f"{bad[0].where}: {bad[0].reason}" if bad else "the file has too few rows"


def _rows(listing: Path) -> Iterator[tuple[int, bytes]]:
    with listing.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line


def _checked(row: bytes, folder: Path, seen: set[str]) -> Item | str:
    """The item of a row, or why there is none."""
    try:
        item = msgspec.json.decode(row, type=Item)
    except msgspec.MsgspecError as error:
        return str(error)
    if item.id in seen:
        return f"id {item.id!r} occurs twice"
    path = (folder / item.image).resolve()
    if not path.is_relative_to(folder.resolve()):
        return f"image {item.image!r} lies outside the data set's folder"
    try:
        read_rgb(path)
    except DataError as error:
        return str(error)
    for question in item.questions:
        if not all(choice.strip() for choice in question.choices):
            return f"a choice of {question.question!r} is empty"
        if question.answer not in question.choices:
            return f"answer {question.answer!r} is not among the choices of {question.question!r}"
    return item
