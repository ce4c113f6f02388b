"""Files of tables, Parquet or Arrow: batches of rows, and the places where a file is damaged.

`datasets` is not used to read them: one torn file ends its reading, and a `state.json` may name files
anywhere.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from engine.records import Record

DAMAGE = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises on damaged files."""
_BUFFER = 1 << 20
"""Bytes of a column read ahead."""
_END = b"\xff\xff\xff\xff" + bytes(4)
"""The last bytes of a finished Arrow stream."""


class Part(Record):
    """Some rows of a file, or what is wrong with them."""

    first: int
    batch: Any = None
    """A pyarrow RecordBatch; None where the rows cannot be read."""
    problem: str = ""
    where: str = ""
    """Behind the file's name, where a problem is."""


class TableFile(Protocol):
    """One file: groups of rows in order, each of which can be read without the others."""

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns. Raises one of DAMAGE."""
        ...

    @property
    def starts(self) -> Sequence[int]:
        """The first row of every group. Raises one of DAMAGE."""
        ...

    @property
    def torn(self) -> str:
        """What is wrong behind the last group; empty where nothing is."""
        ...

    def batches(self, group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """Up to `size` rows of a group at a time. Raises one of DAMAGE."""
        ...


class ParquetFile:
    """One Parquet file."""

    torn = ""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _open(self) -> pq.ParquetFile:
        # Without a buffer, or with pre-buffering, whole column chunks are read: all images of a row group.
        return pq.ParquetFile(self._path, buffer_size=_BUFFER, pre_buffer=False)

    @cached_property
    def schema(self) -> pa.Schema:
        with self._open() as file:
            return file.schema_arrow

    @cached_property
    def starts(self) -> Sequence[int]:
        with self._open() as file:
            groups = range(file.metadata.num_row_groups)
            sizes = (file.metadata.row_group(group).num_rows for group in groups)
            return list(accumulate(sizes, initial=0))[:-1]

    def batches(self, group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        with self._open() as file:
            yield from file.iter_batches(size, row_groups=[group], columns=list(columns), use_threads=False)


class ArrowFile:
    """One stream of record batches, memory-mapped: what is not looked at is not read from disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def schema(self) -> pa.Schema:
        with pa.memory_map(str(self._path)) as mapped, pa.ipc.open_stream(mapped) as stream:
            return stream.schema

    @cached_property
    def _read(self) -> tuple[list[pa.RecordBatch], str]:
        """The batches up to the first that is damaged, and what is wrong there."""
        batches = []
        with pa.memory_map(str(self._path)) as mapped, pa.ipc.open_stream(mapped) as stream:
            try:
                batches += list(stream)
            except DAMAGE as error:
                return batches, f"the rest of the file cannot be read: {one_line(error)}"
        with self._path.open("rb") as end:
            end.seek(-len(_END), os.SEEK_END)
            whole = end.read() == _END
        return batches, "" if whole else "the rest of the file is missing: it has no end mark"

    @property
    def torn(self) -> str:
        return self._read[1]

    @cached_property
    def starts(self) -> Sequence[int]:
        return list(accumulate((batch.num_rows for batch in self._read[0]), initial=0))[:-1]

    def batches(self, group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        chosen = self._read[0][group].select(list(columns))
        return (chosen.slice(first, size) for first in range(0, chosen.num_rows, size))


def parts(file: TableFile, columns: Sequence[str], size: int) -> Iterator[Part]:
    """All rows in order, up to `size` at a time. A damaged group costs its own rows alone."""
    first = 0
    for group, first in enumerate(file.starts):
        try:
            for batch in file.batches(group, columns, size):
                yield Part(first=first, batch=batch)
                first += batch.num_rows
        except DAMAGE as error:
            problem = f"the rest of the row group cannot be read: {one_line(error)}"
            yield Part(first=first, problem=problem, where=f":row group {group}")
    if file.torn:
        yield Part(first=first, problem=file.torn)


def group_of(file: TableFile, row: int) -> tuple[int, int]:
    """The group that holds a row, and its first row."""
    group = bisect_right(file.starts, row) - 1
    return group, file.starts[group]


def one_line(error: Exception) -> str:
    """What a foreign error says, on one line."""
    return " ".join(str(error).split())[:300]
