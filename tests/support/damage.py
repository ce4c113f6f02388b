"""What disks, copies and people do to a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

KINDS = st.one_of(
    st.sampled_from(["emptied", "deleted", "cut"]),
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)),
)
"""A place and a bit to flip there, or what becomes of the whole file."""


@contextmanager
def damaged(path: Path, kind: str | tuple[float, int]) -> Iterator[None]:
    """A file as the damage leaves it, until the context ends."""
    whole = path.read_bytes()
    try:
        if kind == "deleted":
            path.unlink()
        elif isinstance(kind, str):
            path.write_bytes(whole[: len(whole) // 2 if kind == "cut" else 0])
        elif whole:
            place = int(kind[0] * len(whole))
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << kind[1]]) + whole[place + 1 :])
        yield
    finally:
        path.write_bytes(whole)
