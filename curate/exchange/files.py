"""The files of foreign pairs: which of them hold rows, their rows, and the images that they name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from PIL import Image

from curate.exchange.json_objects import json_objects
from curate.images import read_rgb
from engine.errors import DataError
from engine.records import Record

_KNOWN = ("*.parquet", "data/*.parquet", "pair_dpo_data.json", "metadata.jsonl", "*.jsonl", "*.json")
"""What is looked for in a folder; the first kind that is there is read."""
_NO_ROWS = ("dataset_info.json", "dataset_infos.json", "state.json")
_OFFICIAL = ("datasets/journeydb/", "datasets/journydb/")
"""How image names of official pair files begin; the scripts spell it both ways."""
_BATCH = 8


class Found(Record):
    """A row of a file, or why there is none here."""

    where: str
    value: dict[str, Any] | None
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


def rows(file: Path) -> Iterator[Found]:
    """The rows of a JSON or Parquet file, a few in memory at a time; damaged ones with their reason.

    Raises:
        DataError: the file cannot be opened, or is no Parquet file despite its name.
    """
    return _table_rows(file) if file.suffix == ".parquet" else _json_rows(file)


def _json_rows(file: Path) -> Iterator[Found]:
    try:
        with file.open("rb") as stream:
            for one in json_objects(stream):
                yield Found(f"{file.name}:object {one.number}", one.value, one.problem)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def _table_rows(file: Path) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without a buffer, or with pre-buffering, whole column chunks are read: all images of a row group.
        table = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    number = 0
    with table:
        try:
            for batch in table.iter_batches(_BATCH, use_threads=False):
                for value in batch.to_pylist():
                    number += 1
                    yield Found(f"{file.name}:row {number}", value)
        except (pa.ArrowException, OSError) as error:
            problem = f"the rest of the file cannot be read: {str(error).splitlines()[0]}"
            yield Found(f"{file.name}:row {number + 1}", None, problem)


def read_inside(folders: Sequence[Path], name: str) -> Image.Image:
    """An image file in mode RGB, looked for in each of the folders.

    A name that begins as the official scripts' do is looked for in its folder `datasets/journeydb` too.

    Raises:
        DataError: it lies outside all folders, also through a symbolic link; is none; cannot be read.
    """
    names = [name, *(name.removeprefix(one) for one in _OFFICIAL if name.startswith(one))]
    for folder in folders:
        root = folder.resolve()
        for one in names:
            path = os.path.normpath(os.path.join(root, one))
            if "\0" in one or not path.startswith(str(root).rstrip(os.sep) + os.sep):
                raise DataError(f"image {name!r} lies outside the data set's folder")
            if os.path.isfile(path):
                if not Path(path).resolve().is_relative_to(root):
                    raise DataError(f"image {name!r} leads outside the data set's folder by a symbolic link")
                return read_rgb(Path(path))
    raise DataError(f"image {name!r} is missing")


def digest(files: Sequence[Path]) -> str:
    """BLAKE2b of names and contents, 16 bytes in hex.

    Raises:
        DataError: a file cannot be read.
    """
    found = blake2b(digest_size=16)
    for file in files:
        try:
            found.update(f"{file.name}\0{file.stat().st_size}\0".encode(errors="surrogateescape"))
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    found.update(block)
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    return found.hexdigest()
