"""What the kinds of data set share that are one file of annotations with image files beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from curate.sources.confine import read_inside
from curate.sources.digest import files_digest
from curate.sources.fields import Fields, make_row
from curate.sources.rows import DataRow
from engine.records import Item


class AnnotationReader:
    """Rows of one file; image names are relative to its folder."""

    oracle = is_split = False
    subfolders: tuple[str, ...] = ("",)
    """Where an image may lie below the folder."""

    def __init__(self, file: Path, name: str) -> None:
        self.name = name
        self._file = file

    def digest(self) -> str:
        return files_digest([self._file])

    def rows(self) -> Iterator[DataRow]:
        for position, (where, fields) in enumerate(self._entries()):
            yield make_row(position, where, fields, folder=self._file.parent)

    def image(self, item: Item) -> Image.Image:
        return read_inside(self._file.parent, item.image, self.subfolders)

    def _entries(self) -> Iterator[tuple[str, Fields | str]]:
        """Where each row stands, and its fields, or why it has none."""
        raise NotImplementedError
