"""The embedded shapes as a source: endless, seeded, with splits of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from PIL import Image

from curate.shapes import world
from curate.sources.rows import DataRow
from engine.errors import DataError
from engine.records import Item

SHAPES = "shapes"


class ShapesReader:
    """Items of one split under one seed."""

    name = SHAPES
    oracle = is_split = True

    def __init__(self, split: str, seed: int) -> None:
        if split not in world.SPLITS:
            raise DataError(f"the embedded shapes have no split {split!r}, only {', '.join(world.SPLITS)}")
        self._split, self._seed = split, seed

    def digest(self) -> str:
        return f"{SHAPES}-{self._split}-{self._seed}"

    def rows(self) -> Iterator[DataRow]:
        for index in itertools.count():
            item, _ = world.item(self._split, self._seed, index)
            yield DataRow(position=index, where=item.id, item=item)

    def image(self, item: Item) -> Image.Image:
        return Image.fromarray(world.image_of(item.id))
