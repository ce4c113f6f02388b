"""Fingerprints of annotation files."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from engine.errors import DataError

WHOLE = 16 << 20
"""Bytes up to which a file's whole content counts."""
END = 1 << 20
"""Bytes from either end that count of a larger file."""


def files_digest(files: Iterable[Path]) -> str:
    """Digest of names, sizes and contents; of a file above WHOLE bytes, of its first and last END bytes.

    A change in the middle of a large file that keeps its size goes unseen, and so do changes of image files
    that an annotation names.

    Raises:
        DataError: a file cannot be read.
    """
    digest = blake2b(digest_size=16)
    for path in files:
        try:
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode(errors="surrogateescape"))
            with path.open("rb") as stream:
                if size <= WHOLE:
                    digest.update(stream.read())
                else:
                    digest.update(stream.read(END))
                    stream.seek(size - END)
                    digest.update(stream.read())
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
    return digest.hexdigest()
