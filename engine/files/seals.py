"""Seals: a folder's `seal.json` has the checksums of its finished files, so that damage is found before use.

A file that the seal does not name is taken as it is: an earlier version wrote it, or a person.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import msgspec

from engine.errors import UNREADABLE, CheckpointError, DataError
from engine.files.atomic import write_file

SEAL = "seal.json"
SETTLED = 10**9
"""Nanoseconds after which a second change of a file has another time than the first, whatever its clock."""
_digests: dict[tuple[int, ...], str] = {}


def seal(folder: Path, names: Iterable[str] = ()) -> None:
    """Keeps the checksums of these files, by default of all below the folder; those of others stay.

    Raises:
        CheckpointError: a file is missing.
        DataError: the file system refuses.
    """
    every = (str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file() and one.name != SEAL)
    found = {name: file_fingerprint(folder / name) for name in names or every}
    named = {name: one for name, one in (read_seal(folder) | found).items() if name != SEAL}
    write_file(folder / SEAL, msgspec.json.format(msgspec.json.encode(named, order="sorted")))


def damage(folder: Path, *names: str) -> str:
    """What is wrong with files of a folder, by default all that its seal names; empty where nothing is."""
    known = read_seal(folder)
    for name in known if SEAL in known else (names or known):
        path = folder / name
        if name in known and not path.is_file():
            return f"{name} is missing"
        if name in known and file_fingerprint(path) != known[name]:
            return f"{name} was changed after it was written, or is damaged"
    return ""


def require_sealed(path: Path, remedy: str) -> None:
    """Raises DataError where a file is not as its folder's seal has it; `remedy` makes it anew."""
    if reason := damage(path.parent, path.name):
        raise DataError(
            f"{path.parent}: {reason}; restore it, or {remedy}; if the change is yours, remove {SEAL} there"
        )


def read_seal(folder: Path) -> dict[str, str]:
    """Name -> checksum of every sealed file; nothing where there is no seal, itself where it is damaged."""
    try:
        return msgspec.json.decode((folder / SEAL).read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except UNREADABLE:
        return {SEAL: ""}


def file_fingerprint(path: Path) -> str:
    """Sixteen hex digits of a file's content.

    Digesting gigabytes takes longer than a GPU takes for the rest of a swap, so a file that has not changed
    since this process read it is not read again.

    Raises:
        CheckpointError: there is no such file.
    """
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if identity in _digests:
                return _digests[identity]
            begun = time.time_ns()
            digest = hashlib.file_digest(stream, partial(hashlib.blake2b, digest_size=8)).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    # A younger file may change once more without another time, so its digest is not remembered.
    if begun - found.st_ctime_ns > SETTLED:
        _digests[identity] = digest
    return digest
