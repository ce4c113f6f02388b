"""Parquet files, by row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.sources.tables import DAMAGE, Part, TableReader, one_line

BUFFER = 1 << 20
"""Bytes of a column read ahead."""


class ParquetShard:
    """One file. A damaged row group costs its own rows alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _open(self) -> pq.ParquetFile:
        # Without a buffer, or with pre-buffering, whole column chunks are read: all images of a row group.
        return pq.ParquetFile(self.path, buffer_size=BUFFER, pre_buffer=False)

    def schema(self) -> pa.Schema:
        with self._open() as file:
            return file.schema_arrow

    def start_of(self, row: int) -> int:
        with self._open() as file:
            return max(start for start in _starts(file.metadata) if start <= row)

    def parts(self, first: int, columns: Sequence[str], size: int) -> Iterator[Part]:
        with self._open() as file:
            starts = _starts(file.metadata)
            for group, start in enumerate(starts):
                if group + 1 == len(starts) or starts[group + 1] > first:
                    yield from _group(file, group, start, columns, size)


def _starts(metadata: pq.FileMetaData) -> list[int]:
    """The first row of every row group."""
    sizes = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    return list(accumulate(sizes, initial=0))[:-1]


def _group(file: pq.ParquetFile, group: int, start: int, columns: Sequence[str], size: int) -> Iterator[Part]:
    try:
        for batch in file.iter_batches(size, row_groups=[group], columns=list(columns), use_threads=False):
            yield Part(first=start, batch=batch)
            start += batch.num_rows
    except DAMAGE as error:
        problem = f"the rest of the row group cannot be read: {one_line(error)}"
        yield Part(first=start, problem=problem, where=f":row group {group}")


def parquet_reader(files: Sequence[Path], folder: Path, name: str) -> TableReader:
    """The rows of all files, in the order given."""
    return TableReader([ParquetShard(path) for path in files], folder, name)
