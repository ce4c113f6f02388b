"""What the kinds of data set share that are files of annotations with image files beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from curate.sources.confine import read_image
from curate.sources.digest import files_digest
from curate.sources.fields import make_rows
from curate.sources.rows import DataRow
from curate.sources.spelling import Fields
from engine.records import Item

Entries = Callable[[Sequence[Path]], Iterator[tuple[str, Fields | str]]]
"""Files -> where each row stands, and its fields, or why it has none."""


class AnnotationReader:
    """Rows of a kind's files; images are looked for in the folders."""

    oracle = is_split = False

    def __init__(self, entries: Entries, files: Sequence[Path], folders: Sequence[Path], name: str) -> None:
        self.name = name
        self._entries, self._files, self._folders = entries, files, folders

    def digest(self) -> str:
        return files_digest(self._files)

    def rows(self) -> Iterator[DataRow]:
        for position, (where, fields) in enumerate(self._entries(self._files)):
            yield from make_rows(position, where, fields, folders=self._folders)

    def image(self, item: Item) -> Image.Image:
        return read_image(self._folders, item.image)
