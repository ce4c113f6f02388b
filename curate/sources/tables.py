"""Rows and images of tables on disk, Parquet or Arrow: batch by batch, never a table at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pyarrow as pa
from PIL import Image

from curate.sources.confine import read_image
from curate.sources.digest import files_digest
from curate.sources.fields import make_rows
from curate.sources.images import decode_rgb
from curate.sources.rows import DataRow
from curate.sources.spelling import CAPTION, ID, IMAGE, OTHERS, lower, missing_column
from curate.sources.table_files import DAMAGE, Part, TableFile, one_line, parts, plain_rows
from engine.errors import DataError
from engine.records import Item, Record

ROWS, IMAGES = 1024, 16
"""Rows in memory together, without and with their images."""
_TEXT = (pa.string(), pa.large_string(), pa.string_view())


class Columns(Record):
    """Where a table keeps what an item needs."""

    image: str
    embedded: bool
    """Whether the image column holds the files themselves."""
    fields: tuple[str, ...]
    """Columns, or parts as in `image.path`, to read for an item without opening its image."""


def columns_of(schema: pa.Schema) -> Columns:
    """The columns of a table.

    Raises:
        DataError: no caption, no image, or images of a type that holds neither files nor names.
    """
    if reason := missing_column(schema.names):
        raise DataError(reason)
    known = lower(schema.names)
    image = next(known[name] for name in IMAGE if name in known)
    kind = schema.field(image).type
    parts = {field.name for field in kind} if pa.types.is_struct(kind) else set()
    is_struct = {"bytes", "path"} & parts
    is_bytes = kind in (pa.binary(), pa.large_binary(), pa.binary_view())
    is_name = kind in _TEXT
    if not (is_struct or is_bytes or is_name):
        raise DataError(f"column {image} is {kind}; it must hold image files (bytes) or their names")
    fields = [known[name] for name in (ID, *CAPTION, *OTHERS) if name in known]
    fields += [known[name] for name in IMAGE if name in known and schema.field(known[name]).type in _TEXT]
    fields += [f"{image}.path"] if "path" in parts else []
    return Columns(image=image, embedded=not is_name, fields=tuple(fields))


class TableReader:
    """Files of one table. An embedded image is named "<file>#<row>"; an item without an id is
    "<file without its ending>/<row>", rows counted from 0."""

    oracle = is_split = False

    def __init__(
        self,
        opened: Callable[[Path], TableFile],
        paths: Sequence[Path],
        folders: Sequence[Path],
        name: str,
    ) -> None:
        self.name = name
        self._paths, self._folders = {path.name: path for path in paths}, folders
        self._open = cache(opened)
        self._images = _Images()

    def digest(self) -> str:
        return files_digest(self._paths.values())

    def rows(self) -> Iterator[DataRow]:
        position = 0
        for name, path in self._paths.items():
            end = 0
            try:
                file = self._open(path)
                columns = columns_of(file.schema)
                for part in parts(file, columns.fields, ROWS):
                    if part.batch is None:
                        where = f"{name}{part.where}"
                        yield DataRow(position=position + part.first, where=where, reason=part.problem)
                        end = part.first + 1
                    else:
                        end = part.first + part.batch.num_rows
                        yield from self._items(position, name, part, columns)
            except (*DAMAGE, DataError) as error:
                yield DataRow(position=position, where=name, reason=one_line(error))
                end = 1
            position += end

    def _items(self, position: int, name: str, part: Part, columns: Columns) -> Iterator[DataRow]:
        stem = name.rsplit(".", 1)[0]
        for number, fields in enumerate(plain_rows(part.batch), part.first):
            where = f"{name}:row {number}"
            embedded = (f"{name}#{number}", f"{stem}/{number}") if columns.embedded else ("", "")
            yield from make_rows(position + number, where, fields, *embedded, self._folders)

    def image(self, item: Item) -> Image.Image:
        name, _, number = item.image.rpartition("#")
        path = self._paths.get(name)
        if path is None or not number.isdecimal():
            return read_image(self._folders, item.image)
        where = f"{name}:row {number}"
        try:
            cell = self._images.cell(self._open(path), int(number))
        except DAMAGE as error:
            raise DataError(f"{where}: cannot be read: {one_line(error)}") from error
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes) and cell:
            return decode_rgb(cell, where)
        if isinstance(cell, str) and cell:
            return read_image(self._folders, cell)
        raise DataError(f"{where}: the image is empty")


class _Images:
    """Reads images of a table in nearly the order of its rows; to go back it begins their group again."""

    def __init__(self) -> None:
        self._at: tuple[TableFile, int] | None = None
        """File and group that are being read."""
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._first, self._cells = 0, pa.array([])
        self._lock = threading.Lock()

    def cell(self, file: TableFile, row: int) -> object:
        """The image of a row as the table has it: bytes, a struct, or a name."""
        with self._lock:
            at = (file, file.group_of(row))
            if self._at != at or row < self._first:
                self._first, self._cells = file.starts[at[1]], pa.array([])
                self._batches = file.batches(at[1], [columns_of(file.schema).image], IMAGES)
            # A reading that fails is not gone on with.
            self._at = None
            while row >= self._first + len(self._cells):
                self._first += len(self._cells)
                if (batch := next(self._batches, None)) is None:
                    raise OSError("there is no such row")
                self._cells = batch.column(0)
            self._at = at
            return self._cells[row - self._first].as_py()
