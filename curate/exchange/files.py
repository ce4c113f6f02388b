"""The files of foreign pairs: which of them hold rows, and their rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.sources.json_objects import json_objects
from curate.sources.splits import train_files
from engine.errors import DataError
from engine.records import Record

_KNOWN = ("*.parquet", "data/*.parquet", "pair_dpo_data.json", "metadata.jsonl", "*.jsonl", "*.json")
"""What is looked for in a folder; the first kind that is there is read, of several splits train alone."""
_NO_ROWS = ("dataset_info.json", "dataset_infos.json", "state.json")
_BATCH = 8


class SourceRow(Record):
    """A row of a file, or why there is none here."""

    where: str
    fields: dict[str, Any] | None
    problem: str = ""


def row_files(source: Path) -> tuple[Path, ...]:
    """The files with rows of a file or folder.

    Raises:
        DataError: there is none, or none is of the train split.
    """
    if source.is_file():
        return (source,)
    for pattern in _KNOWN:
        if found := sorted(one for one in source.glob(pattern) if one.name not in _NO_ROWS):
            return train_files(source, found)
    raise DataError(
        f"{source}: no pairs here; name a .json, .jsonl or .parquet file, or a folder that holds one"
    )


def read_rows(file: Path) -> Iterator[SourceRow]:
    """The rows of a JSON or Parquet file, a few in memory at a time; damaged ones with their reason.

    Raises:
        DataError: the file cannot be opened, or is no Parquet file despite its name.
    """
    return _table_rows(file) if file.suffix == ".parquet" else _json_rows(file)


def _json_rows(file: Path) -> Iterator[SourceRow]:
    try:
        with file.open("rb") as stream:
            for number, found in json_objects(stream):
                where = f"{file.name}:object {number}"
                yield SourceRow(where, None, found) if isinstance(found, str) else SourceRow(where, found)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def _table_rows(file: Path) -> Iterator[SourceRow]:
    from curate.sources.table_files import DAMAGE, one_line, open_parquet, parts, plain_rows

    try:
        table = open_parquet(file)
    except DAMAGE as error:
        raise DataError(f"{file}: cannot be read as Parquet: {one_line(error)}") from error
    for part in parts(table, table.schema.names, _BATCH):
        if part.batch is None:
            yield SourceRow(file.name + part.where, None, part.problem)
            continue
        for place, fields in enumerate(plain_rows(part.batch), part.first + 1):
            where = f"{file.name}:row {place}"
            yield SourceRow(where, None, fields) if isinstance(fields, str) else SourceRow(where, fields)
