"""Reference log-probs on disk: a Zarr folder that is filled block by block and renamed when it is whole.

Legend: P preferences, K masks of a preference, B preferences in one block.

One block of preferences is one Zarr chunk of each array, written once, and marked done by a chunk of its own
after all others. So a killed computation loses the blocks that were at work and no other, several processes
can write at once, and no chunk is ever read, changed and written back.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

BLOCK = 32
"""Least B. Long enough to sort rows by length, short enough that a kill costs little."""
MOST_BLOCKS = 2048
"""B grows with P beyond so many blocks: a reader opens every chunk once."""

Arrays = Mapping[str, NDArray[Any]]


def block_size(count: int) -> int:
    """B of a store of `count` preferences: of nothing else, for B decides which rows are scored together."""
    return max(BLOCK, -(-count // MOST_BLOCKS))


class PartialStore:
    """A store at work, beside the place where it will stand."""

    def __init__(self, group: zarr.Group) -> None:
        self._group = group
        self.count: int = group["caption_win"].shape[0]  # type: ignore[union-attr]
        self._block: int = group["caption_win"].chunks[0]  # type: ignore[union-attr]

    @classmethod
    def create(
        cls, folder: Path, attributes: Mapping[str, Any], ids: Sequence[str], draws: int, block: int
    ) -> PartialStore:
        """An empty store in `folder`, whatever was there; the attributes come last, with `ready`."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        count = len(ids)
        with quiet_zarr():
            group = zarr.open_group(folder, mode="w")
            for name in ("caption_win", "caption_lose"):
                group.create_array(name, shape=(count,), chunks=(block,), dtype="float32", fill_value=np.nan)
            shape, chunks = (count, draws), (block, draws)
            for name in ("image_win", "image_lose"):
                group.create_array(name, shape=shape, chunks=chunks, dtype="float32", fill_value=np.nan)
            group.create_array("mask_seed", shape=shape, chunks=chunks, dtype="int64", fill_value=-1)
            blocks = -(-count // block)
            group.create_array("done", shape=(blocks,), chunks=(1,), dtype="bool", fill_value=False)
            names = np.array(ids, dtype=np.dtypes.StringDType())
            group.create_array("pair_id", data=names, chunks=(count,))
            group.attrs.update(attributes)
            group.attrs["ready"] = True
        return cls(group)

    @classmethod
    def open(cls, folder: Path) -> PartialStore:
        """The store that `create` has left in `folder`."""
        with quiet_zarr():
            return cls(zarr.open_group(folder, mode="r+"))

    def missing(self) -> list[int]:
        """Numbers of the blocks that are not done."""
        done: Any = self._group["done"]
        missing: list[int] = np.flatnonzero(~done[:]).tolist()
        return missing

    def span(self, number: int) -> slice:
        """The preferences of a block."""
        return slice(number * self._block, min((number + 1) * self._block, self.count))

    def length(self, number: int) -> int:
        """Number of preferences in a block."""
        span = self.span(number)
        return int(span.stop - span.start)

    def write(self, number: int, arrays: Arrays) -> None:
        """Keeps a whole block, and marks it done."""
        group: Any = self._group
        with quiet_zarr():
            for name, values in arrays.items():
                group[name][self.span(number)] = values
            group["done"][number] = True


def attributes_of(folder: Path) -> dict[str, Any]:
    """A store's attributes; none where it was killed while it was created."""
    try:
        with quiet_zarr():
            return dict(zarr.open_group(folder, mode="r").attrs)
    except Exception:  # zarr raises several types of its own
        return {}


def read_arrays(folder: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Whole arrays of a store, chunk after chunk."""
    with quiet_zarr():
        group: Any = zarr.open_group(folder, mode="r")
        return {name: group[name][:] for name in names}


@contextmanager
def quiet_zarr() -> Iterator[None]:
    """Zarr warns that its string type has no final specification; the ids are for readers alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
