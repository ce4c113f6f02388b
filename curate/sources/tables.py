"""Rows and images of tables on disk, whatever their container: batch by batch, never a table at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from PIL import Image

from curate.sources.confine import read_inside
from curate.sources.digest import files_digest
from curate.sources.fields import CAPTION, ID, IMAGE, OTHERS, make_row
from curate.sources.images import decode_rgb
from curate.sources.listing import confined
from curate.sources.rows import Row
from engine.errors import DataError
from engine.records import Item, Record

ROWS, IMAGES = 1024, 16
"""Rows in memory together, without and with their images."""
DAMAGE = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises on damaged files."""


class Part(Record):
    """Some rows of a shard, or what is wrong with them."""

    first: int
    batch: Any = None
    """A pyarrow RecordBatch; None where the rows cannot be read."""
    problem: str = ""
    where: str = ""


class Shard(Protocol):
    """One file of a table."""

    path: Path

    def schema(self) -> pa.Schema:
        """Names and types of the columns. Raises one of DAMAGE."""
        ...

    def start_of(self, row: int) -> int:
        """The first row from which reading can begin to reach a row."""
        ...

    def parts(self, first: int, columns: Sequence[str], size: int) -> Iterator[Part]:
        """Batches of up to `size` rows in order, from one that does not begin after row `first`."""
        ...


class Columns(Record):
    """Where a table keeps what an item needs."""

    image: str
    embedded: bool
    """Whether the image column holds the files themselves."""
    fields: tuple[str, ...]
    """Columns to read for an item without opening its image."""


def columns_of(schema: pa.Schema) -> Columns:
    """The columns of a table.

    Raises:
        DataError: no caption, no image, or images of a type that holds neither files nor names.
    """
    names = set(schema.names)
    listed = f"its columns are {', '.join(schema.names)}"
    image = next((name for name in IMAGE if name in names), None)
    captions = [name for name in CAPTION if name in names]
    if image is None or not captions:
        missing = f"caption ({' or '.join(CAPTION)})" if image else f"image ({', '.join(IMAGE)})"
        raise DataError(f"no column for the {missing}; {listed}")
    kind = schema.field(image).type
    is_struct = pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}
    is_bytes = kind in (pa.binary(), pa.large_binary(), pa.binary_view())
    is_name = kind in (pa.string(), pa.large_string(), pa.string_view())
    if not (is_struct or is_bytes or is_name):
        raise DataError(f"column {image} is {kind}; it must hold image files (bytes) or their names")
    fields = [name for name in (ID, *captions, *OTHERS) if name in names]
    return Columns(image=image, embedded=not is_name, fields=(*fields, image) if is_name else tuple(fields))


class TableReader:
    """Shards of one table. An embedded image is named "<shard>#<row>"; an item without an id is
    "<shard without its ending>/<row>", rows counted from 0."""

    oracle = is_split = False

    def __init__(self, shards: Sequence[Shard], folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder
        self._shards = {shard.path.relative_to(folder).as_posix(): shard for shard in shards}
        self._cursor = _Cursor()

    def digest(self) -> str:
        return files_digest(shard.path for shard in self._shards.values())

    def rows(self) -> Iterator[Row]:
        position = 0
        for name, shard in self._shards.items():
            try:
                columns = columns_of(shard.schema())
            except (*DAMAGE, DataError) as error:
                yield Row(position=position, where=name, reason=one_line(error))
                position += 1
                continue
            end = 0
            for part in shard.parts(0, columns.fields, ROWS):
                if part.batch is None:
                    where = f"{name}{part.where}"
                    yield Row(position=position + part.first, where=where, reason=part.problem)
                    end = part.first + 1
                else:
                    end = part.first + part.batch.num_rows
                    yield from self._items(position, name, part, columns)
            position += end

    def _items(self, position: int, name: str, part: Part, columns: Columns) -> Iterator[Row]:
        stem = name.rsplit(".", 1)[0]
        for number, fields in enumerate(_plain_rows(part.batch), part.first):
            where = f"{name}:row {number}"
            if isinstance(fields, str):
                yield Row(position=position + number, where=where, reason=fields)
            elif columns.embedded:
                yield make_row(position + number, where, fields, f"{name}#{number}", f"{stem}/{number}")
            else:
                yield confined(make_row(position + number, where, fields), self._folder)

    def image(self, item: Item) -> Image.Image:
        name, _, number = item.image.rpartition("#")
        shard = self._shards.get(name)
        if shard is None or not number.isdecimal():
            return read_inside(self._folder, item.image)
        where = f"{name}:row {number}"
        try:
            cell = self._cursor.cell(shard, int(number))
        except DAMAGE as error:
            raise DataError(f"{where}: cannot be read: {one_line(error)}") from error
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes) and cell:
            return decode_rgb(cell, where)
        if isinstance(cell, str) and cell:
            return read_inside(self._folder, cell)
        raise DataError(f"{where}: the image is empty")


def one_line(error: Exception) -> str:
    """What a foreign error says, on one line."""
    return " ".join(str(error).split())[:300]


def _plain_rows(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    """The rows as Python values; for a row that holds what is no text, why."""
    try:
        rows: list[dict[str, Any] | str] = list(batch.to_pylist())
    except DAMAGE:
        rows = []
        for number in range(batch.num_rows):
            try:
                rows += batch.slice(number, 1).to_pylist()
            except DAMAGE as error:
                rows.append(one_line(error))
    return rows


class _Cursor:
    """Reads images of a table in nearly the order of its rows; goes back by starting again."""

    def __init__(self) -> None:
        self._shard: Shard | None = None
        self._parts: Iterator[Part] = iter(())
        self._first, self._images = 0, pa.array([])
        self._lock = threading.Lock()

    def cell(self, shard: Shard, row: int) -> object:
        """The image of a row as the table has it: bytes, a struct, or a name."""
        with self._lock:
            end = self._first + len(self._images)
            if shard is not self._shard or row < self._first or shard.start_of(row) > end:
                self._shard = None
                self._parts = shard.parts(row, [columns_of(shard.schema()).image], IMAGES)
                self._next()
                self._shard = shard
            while row >= self._first + len(self._images):
                self._next()
            return self._images[row - self._first].as_py()

    def _next(self) -> None:
        part = next(self._parts, Part(first=0, problem="there is no such row"))
        if part.batch is None:
            self._shard = None
            raise OSError(part.problem)
        self._first, self._images = part.first, part.batch.column(0)
