"""What is sealed of a curation: every complete shard with its checksum, and a checksum of all that."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from msgspec.structs import replace

from engine.errors import UNREADABLE, DataError
from engine.records import Record

MANIFEST = "manifest.json"
ANEW = "restore it, or curate this round again with --fresh"


class Shard(Record):
    """A sealed shard."""

    block: int
    rows: int
    bad: int
    """Of them, those that are quarantined."""
    bytes: int
    checksum: str
    """Of its content."""

    @property
    def name(self) -> str:
        """Its file."""
        return f"{self.block:06d}.jsonl"


class Manifest(Record):
    """What is sealed."""

    size: int
    """Rows of a block."""
    shards: tuple[Shard, ...] = ()
    checksum: str = ""
    """Of the rest; early manifests have none."""

    def sealed(self) -> Manifest:
        """The same with its checksum."""
        return replace(self, checksum=checksum(msgspec.json.encode(replace(self, checksum=""))))


def read_manifest(folder: Path) -> Manifest | None:
    """What is sealed of a curation; None where nothing is.

    Raises:
        DataError: it cannot be read, or was changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except UNREADABLE as error:
        raise DataError(f"{path}: {error}; {ANEW}") from error
    if found.checksum and found != found.sealed():
        raise DataError(f"{path}: was changed after it was written; {ANEW}")
    return found


def require_shard(shard: Shard, path: Path, content: bytes | None = None) -> None:
    """Raises DataError where a shard's file is missing, of another size, or known to have another content."""
    size = path.stat().st_size if path.is_file() else None
    what = ""
    if size != shard.bytes:
        what = "is missing" if size is None else f"has {size} bytes instead of {shard.bytes}"
    elif content is not None and checksum(content) != shard.checksum:
        what = "was changed after it was sealed"
    if what:
        raise DataError(f"{path}: {what}; {ANEW}")


def checksum(content: bytes) -> str:
    """BLAKE2b, 16 bytes in hex."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
