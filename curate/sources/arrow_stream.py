"""Arrow IPC streams, memory-mapped: what is not looked at is not read from disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from curate.sources.tables import DAMAGE, Part, TableReader, one_line

_END = b"\xff\xff\xff\xff" + bytes(4)
"""The last bytes of a finished stream."""


class ArrowShard:
    """One stream of record batches."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def schema(self) -> pa.Schema:
        with pa.memory_map(str(self.path)) as mapped, pa.ipc.open_stream(mapped) as stream:
            return stream.schema

    def start_of(self, row: int) -> int:
        return 0

    def parts(self, first: int, columns: Sequence[str], size: int) -> Iterator[Part]:
        start = 0
        with pa.memory_map(str(self.path)) as mapped, pa.ipc.open_stream(mapped) as stream:
            try:
                for batch in stream:
                    chosen = batch.select(list(columns))
                    for offset in range(max(0, first - start), batch.num_rows, size):
                        yield Part(first=start + offset, batch=chosen.slice(offset, size))
                    start += batch.num_rows
            except DAMAGE as error:
                yield Part(first=start, problem=f"the rest of the file cannot be read: {one_line(error)}")
                return
        if not self._is_finished():
            yield Part(first=start, problem="the rest of the file is missing: it has no end mark")

    def _is_finished(self) -> bool:
        with self.path.open("rb") as stream:
            stream.seek(-len(_END), os.SEEK_END)
            return stream.read() == _END


def arrow_reader(files: Sequence[Path], folder: Path, name: str) -> TableReader:
    """The rows of all files, in the order given."""
    return TableReader([ArrowShard(path) for path in files], folder, name)
