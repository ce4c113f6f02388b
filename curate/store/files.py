"""Files of one curation that are written when it is complete; `curate.store.shards` holds what it samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.errors import UNREADABLE, DataError
from engine.files.atomic import write_parts
from engine.files.seals import require_sealed
from engine.records import Record

PAIRS, SUMMARY, ORIGIN, QUARANTINE = "pairs.jsonl", "curate.json", "origin.json", "quarantine.jsonl"
CURATE_AGAIN = "run `hermes curate` again, or import the pairs again"
"""What makes the files of a curation anew; the candidates stay."""
IMPORTED = "imported.json"
"""Where pairs came from, in place of an origin."""

Stored = TypeVar("Stored", bound=Record)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """One JSON object a line, written as they come; like `write_file` all or nothing."""
    write_parts(path, (msgspec.json.encode(record) + b"\n" for record in records))


def read_records(path: Path, kind: type[Stored]) -> Iterator[Stored]:
    """The records of a complete file.

    Raises:
        DataError: the file is not as it was sealed, or names the first line that is not such a record.
    """
    require_sealed(path, CURATE_AGAIN)
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield decoder.decode(line)
            except UNREADABLE as error:
                raise DataError(f"{path}, line {number}: not a {kind.__name__} record: {error}") from error
