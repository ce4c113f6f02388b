"""Files of one curation that are written when it is complete; `curate.shards` holds what it samples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.errors import DataError
from engine.records import Record

PAIRS, SUMMARY, ORIGIN, QUARANTINE = "pairs.jsonl", "curate.json", "origin.json", "quarantine.jsonl"
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
    write_parts(path, [content])


def write_records(path: Path, records: Iterable[Record]) -> None:
    """One JSON object a line, written as they come; like `write_file` all or nothing."""
    write_parts(path, (msgspec.json.encode(record) + b"\n" for record in records))


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """`write_file` for content that need not be in memory at once."""
    beside = path.with_name(path.name + ".new")
    with stored(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = beside.open("wb")
    with stream:
        for part in parts:
            with stored(path):
                stream.write(part)
        with stored(path):
            stream.flush()
            os.fsync(stream.fileno())
    with stored(path):
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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
