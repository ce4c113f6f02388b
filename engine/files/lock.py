"""Locks between processes: a file that one of them holds, until it lets go or ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import BusyError


def take(path: Path) -> int | None:
    """The handle of a lock file that is now held, until it is closed; None where another holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@contextmanager
def holding(path: Path, busy: str) -> Iterator[None]:
    """Holds a lock file while the block runs; makes its folder.

    Raises:
        BusyError: another holds it, which `busy` says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = take(path)
    if handle is None:
        raise BusyError(busy)
    try:
        yield
    finally:
        os.close(handle)
