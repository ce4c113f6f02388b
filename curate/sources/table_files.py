"""Files of tables, Parquet or Arrow: groups of rows in order, each of which can be read without the others.

`datasets` is not used to read them: one torn file would end its reading, and it follows a `state.json` to
files anywhere.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DAMAGE = (Exception,)
"""What pyarrow raises on damaged files: of its own and of Python's errors nearly any."""
_BUFFER = 1 << 20
"""Bytes of a column read ahead."""
_END = b"\xff\xff\xff\xff" + bytes(4)
"""The last bytes of a finished Arrow stream."""


class TableFile(NamedTuple):
    """One file. `open_parquet` and `open_arrow` raise one of DAMAGE where it is none."""

    schema: pa.Schema
    starts: list[int]
    """The first row of every group."""
    batches: Callable[[int, Sequence[str], int], Iterator[pa.RecordBatch]]
    """(group, columns, size) -> up to `size` rows of the group at a time. Raises one of DAMAGE."""
    torn: str = ""
    """What is wrong behind the last group; empty where nothing is."""

    def group_of(self, row: int) -> int:
        """The group that holds a row."""
        return bisect_right(self.starts, row) - 1


class Part(NamedTuple):
    """Some rows of a file, or what is wrong with them."""

    first: int
    batch: pa.RecordBatch | None
    problem: str = ""
    where: str = ""
    """Behind the file's name, where a problem is."""


def open_parquet(path: Path) -> TableFile:
    """A Parquet file; its groups are its row groups."""

    def opened() -> pq.ParquetFile:
        # Without a buffer, or with pre-buffering, whole column chunks are read: all images of a row group.
        return pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)

    def batches(group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        with opened() as file:
            yield from file.iter_batches(size, row_groups=[group], columns=list(columns), use_threads=False)

    with opened() as file:
        groups = range(file.metadata.num_row_groups)
        sizes = [file.metadata.row_group(group).num_rows for group in groups]
        return TableFile(schema=file.schema_arrow, starts=_starts(sizes), batches=batches)


def open_arrow(path: Path) -> TableFile:
    """An Arrow stream; its groups are its batches. Memory-mapped: what is not looked at is not read."""
    read: list[pa.RecordBatch] = []
    torn = ""

    def batches(group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        chosen = _chosen(read[group], columns)
        return (chosen.slice(first, size) for first in range(0, chosen.num_rows, size))

    with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        schema = stream.schema
        try:
            for batch in stream:
                # Offsets that lead out of the file would end the process.
                batch.validate(full=True)
                read.append(batch)
        except DAMAGE as error:
            torn = f"the rest of the file cannot be read: {one_line(error)}"
    with path.open("rb") as end:
        end.seek(-len(_END), os.SEEK_END)
        if not torn and end.read() != _END:
            torn = "the rest of the file is missing: it has no end mark"
    return TableFile(schema, _starts([batch.num_rows for batch in read]), batches, torn)


def _chosen(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """Columns, and parts of structs, as Parquet gives them."""
    chosen = {}
    for column, _, part in (name.partition(".") for name in columns):
        values = batch.column(column)
        if part:
            values = pa.StructArray.from_arrays([pc.struct_field(values, part)], [part])
        chosen[column] = values
    return pa.RecordBatch.from_pydict(chosen)


def _starts(sizes: Sequence[int]) -> list[int]:
    return list(accumulate(sizes, initial=0))[:-1]


def parts(file: TableFile, columns: Sequence[str], size: int) -> Iterator[Part]:
    """All rows in order, up to `size` at a time. A damaged group costs its own rows alone."""
    first = 0
    for group, first in enumerate(file.starts):
        try:
            for batch in file.batches(group, columns, size):
                yield Part(first, batch)
                first += batch.num_rows
        except DAMAGE as error:
            problem = f"the rest of the row group cannot be read: {one_line(error)}"
            yield Part(first, None, problem, f":row group {group}")
    if file.torn:
        yield Part(first, None, file.torn)


def plain_rows(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    """The rows as Python values; for a row that holds what is no text, why."""
    try:
        return list(batch.to_pylist())
    except DAMAGE as error:
        if batch.num_rows == 1:
            return [one_line(error)]
        return [row for number in range(batch.num_rows) for row in plain_rows(batch.slice(number, 1))]


def one_line(error: Exception) -> str:
    """What a foreign error says, on one line."""
    return " ".join(str(error).split())[:300]
