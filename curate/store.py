"""Files of one curation: candidates appended chunk by chunk, pairs and summary written when complete.

A kill can tear the last line of the candidates file; the torn tail is cut off when it is next opened,
and its items are sampled again from the same seeds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.errors import DataError
from engine.records import Candidates, Record

CANDIDATES, PAIRS, SUMMARY, ORIGIN = "candidates.jsonl", "pairs.jsonl", "curate.json", "origin.json"
IMPORTED = "imported.json"
"""Where pairs came from, in place of an origin."""

Stored = TypeVar("Stored", bound=Record)


@contextmanager
def stored(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into one line.

    Raises:
        DataError: the disk is full, or the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written: {error.strerror}; make room or mend it, and the same command goes on"
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """Writes beside and renames: a reader sees all of the file or none of it, also after a power loss.

    Raises:
        DataError: the file system refuses.
    """
    with stored(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".new")
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """One JSON object a line."""
    write_file(path, b"".join(msgspec.json.encode(record) + b"\n" for record in records))


def read_records(path: Path, kind: type[Stored]) -> Iterator[Stored]:
    """The records of a complete file.

    Raises:
        DataError: names the first line that is not such a record.
    """
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield decoder.decode(line)
            except msgspec.MsgspecError as error:
                raise DataError(f"{path}, line {number}: not a {kind.__name__} record: {error}") from error


class CandidateLog:
    """The append-only candidates file of one round."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._mend()

    def _mend(self) -> None:
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.path.open("r+b") as stream:
                stream.truncate(whole)

    def read(self) -> list[Candidates]:
        """Everything stored so far."""
        return list(read_records(self.path, Candidates)) if self.path.is_file() else []

    def append(self, records: Iterable[Candidates]) -> None:
        """Adds records and waits until they are on disk."""
        with self.path.open("ab") as stream:
            stream.write(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
            stream.flush()
            os.fsync(stream.fileno())
