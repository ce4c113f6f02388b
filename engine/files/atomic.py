"""Files and folders that appear whole or not at all, also after a power loss."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import DataError

NEW, GONE = ".new", ".gone"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into one line.

    Raises:
        DataError: the disk is full, or the path cannot be written.
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


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """`write_file` for content that need not be in memory at once."""
    beside = path.with_name(path.name + NEW)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = beside.open("wb")
    with stream:
        for part in parts:
            with writing(path):
                stream.write(part)
        with writing(path):
            stream.flush()
            os.fsync(stream.fileno())
    with writing(path):
        beside.replace(path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Has the disk hold a file's content, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def place_folder(beside: Path, folder: Path, replace: bool = False) -> None:
    """Gives a finished folder its name; `replace` removes first what has the name already.

    Raises:
        DataError: the file system refuses, or a folder with files in it has the name.
    """
    with writing(folder):
        for path in beside.rglob("*"):
            sync(path)
        sync(beside)
        if replace:
            remove_folder(folder)
        beside.rename(folder)
        sync(folder.parent)


def remove_folder(folder: Path) -> None:
    """Removes a folder that may be missing; nobody finds half of it under its name."""
    gone = folder.with_name(folder.name + GONE)
    shutil.rmtree(gone, ignore_errors=True)
    if folder.is_dir():
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def sweep(parent: Path, pattern: str) -> None:
    """Removes what a killed process left of folders in the making and in removal."""
    for suffix in (NEW, GONE):
        for left in parent.glob(pattern + suffix):
            shutil.rmtree(left, ignore_errors=True)
