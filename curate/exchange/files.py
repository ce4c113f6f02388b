"""The files of foreign pairs: which of them hold rows, their rows, and the images that they name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from curate.sources.confine import read_inside, stray
from curate.sources.json_objects import json_objects
from engine.errors import DataError
from engine.records import Record

_KNOWN = ("*.parquet", "data/*.parquet", "pair_dpo_data.json", "metadata.jsonl", "*.jsonl", "*.json")
"""What is looked for in a folder; the first kind that is there is read."""
_NO_ROWS = ("dataset_info.json", "dataset_infos.json", "state.json")
_OFFICIAL = ("datasets/journeydb/", "datasets/journydb/")
"""How image names of official pair files begin; the scripts spell it both ways."""
_BATCH = 8


class SourceRow(Record):
    """A row of a file, or why there is none here."""

    where: str
    fields: dict[str, Any] | None
    problem: str = ""


def row_files(source: Path) -> list[Path]:
    """The files with rows of a file or folder.

    Raises:
        DataError: there is none.
    """
    if source.is_file():
        return [source]
    for pattern in _KNOWN:
        if found := sorted(one for one in source.glob(pattern) if one.name not in _NO_ROWS):
            return found
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
            for one in json_objects(stream):
                yield SourceRow(f"{file.name}:object {one.number}", one.value, one.problem)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def _table_rows(file: Path) -> Iterator[SourceRow]:
    from curate.sources.table_files import DAMAGE, one_line, open_parquet, parts

    try:
        table = open_parquet(file)
    except DAMAGE as error:
        raise DataError(f"{file}: cannot be read as Parquet: {one_line(error)}") from error
    for part in parts(table, table.schema.names, _BATCH):
        if part.batch is None:
            yield SourceRow(file.name + part.where, None, part.problem)
            continue
        for place, fields in enumerate(part.batch.to_pylist(), part.first + 1):
            yield SourceRow(f"{file.name}:row {place}", fields)


def read_image(folders: Sequence[Path], name: str) -> Image.Image:
    """An image file in mode RGB, looked for in each of the folders.

    A name that begins as the official scripts' do is looked for in its folder `datasets/journeydb` too.

    Raises:
        DataError: it lies outside a folder, also through a symbolic link; is none; cannot be read.
    """
    names = [name, *(name.removeprefix(one) for one in _OFFICIAL if name.startswith(one))]
    for folder in folders:
        for one in names:
            if reason := stray(folder, one):
                raise DataError(reason)
            if os.path.isfile(folder / one):
                return read_inside(folder, one)
    raise DataError(f"image {name!r} is missing")
