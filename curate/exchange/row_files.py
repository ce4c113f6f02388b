"""JSON files written row by row: a `.json` is one array, a `.jsonl` one object a line."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from curate.exchange.layouts import Row


class RowFiles:
    """The files of a folder, each opened with its first row."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, BinaryIO] = {}

    def append(self, file: str, row: Row) -> None:
        """Adds a row."""
        first = file not in self._open
        if first:
            self._open[file] = (self._folder / file).open("wb")
        stream = self._open[file]
        if file.endswith(".jsonl"):
            stream.write(msgspec.json.encode(row) + b"\n")
        else:
            stream.write(b"[\n" if first else b",\n")
            stream.write(msgspec.json.format(msgspec.json.encode(row), indent=4))

    def close(self) -> None:
        """Ends the arrays."""
        for file, stream in self._open.items():
            with stream:
                if not file.endswith(".jsonl"):
                    stream.write(b"\n]\n")
        self._open = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
