"""Files and folders that appear whole or not at all, also after a power loss.

What is written lies beside its place, with the suffix .new, until the disk holds all of it; then it is
renamed. A killed process leaves that behind, and the next try begins with its removal.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from engine.errors import DataError

NEW, GONE = ".new", ".gone"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into one line.

    Raises:
        DataError: the disk is full, or the path cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _not_written(path, error) from error


def _not_written(path: object, error: BaseException) -> DataError:
    reason = getattr(error, "strerror", None) or error
    return DataError(
        f"{path}: cannot be written: {reason}; make room or mend it, and the same command goes on"
    )


def refused_write(error: BaseException) -> DataError | None:
    """The line of `writing` where a full disk is below an error, as libraries raise or wrap it."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.errno in FULL:
            return _not_written(below.filename or "a file", below)
        below = below.__cause__ or below.__context__
    return None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Where to write a file that takes the name `path` when the block ends well; makes its folder.

    Raises:
        DataError: the file system refuses.
    """
    beside = path.with_name(path.name + NEW)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with writing(path):
            sync(beside)
            beside.replace(path)
            sync(path.parent)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that writes the next part of a file, which appears when the block ends well.

    Raises:
        DataError: the file system refuses.
    """
    with atomic_path(path) as beside:
        with writing(path):
            stream = beside.open("wb")

        def write(part: bytes) -> None:
            with writing(path):
                stream.write(part)

        try:
            yield write
            with writing(path):
                stream.flush()
        finally:
            # On a full disk closing fails too, and would hide the error that says so.
            with suppress(OSError):
                stream.close()


def write_file(path: Path, content: bytes) -> None:
    """A file whose content is in memory.

    Raises:
        DataError: the file system refuses.
    """
    write_parts(path, [content])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """`write_file` for content that need not be in memory at once."""
    with atomic_file(path) as write:
        for part in parts:
            write(part)


@contextmanager
def atomic_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """A hidden folder to fill, which takes the name `folder` when the block ends well (`place_folder`).

    Raises:
        DataError: the file system refuses, also in the block, or a folder with files in it has the name.
    """
    folder = folder.absolute()
    beside = folder.with_name(f".{folder.name}{NEW}")
    try:
        with writing(folder):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            yield beside
        place_folder(beside, folder, replace)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


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


def check_free(folder: Path) -> None:
    """Whether a new folder may be written, before any work is done.

    Raises:
        DataError: something is there already.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise DataError(f"{folder}: is there already and is left alone; name a new folder with --to")


def sync(path: Path) -> None:
    """Has the disk hold a file's content, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
