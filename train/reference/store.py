"""Reference log-probs on disk: a Zarr folder that is filled block by block and renamed when it is whole.

Legend: P preferences, K masks of a preference, B preferences in one block.

One block of preferences is one Zarr chunk of each array, written once, and sealed after all others by the
digest of its values, a chunk of its own. So a killed computation loses the blocks that were at work and no
other, several processes can write at once, no chunk is ever read, changed and written back, and a block whose
chunks are missing or damaged is found when the store is read.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from engine.files.atomic import writing

BLOCK = 32
"""Least B. Long enough to sort rows by length, short enough that a kill costs little."""
MOST_BLOCKS = 2048
"""B grows with P beyond so many blocks: a reader opens every chunk once."""
ARRAYS = ("caption_win", "caption_lose", "image_win", "image_lose", "mask_seed")
"""What a block has of every preference."""
SEALS = "seals"

Arrays = Mapping[str, NDArray[Any]]


def block_size(count: int) -> int:
    """B of a store of `count` preferences: of nothing else, for B decides which rows are scored together."""
    return max(BLOCK, -(-count // MOST_BLOCKS))


class PartialStore:
    """A store at work, beside the place where it will stand; to a reader, a finished one too."""

    def __init__(self, group: zarr.Group, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, Any] = {name: group[name] for name in (*ARRAYS, SEALS)}
        self.count: int = self._arrays[ARRAYS[0]].shape[0]
        self._block: int = self._arrays[ARRAYS[0]].chunks[0]

    @classmethod
    def create(
        cls, folder: Path, attributes: Mapping[str, Any], ids: Sequence[str], draws: int, block: int
    ) -> PartialStore:
        """An empty store in `folder`, whatever was there; the attributes come last, with `ready`."""
        shutil.rmtree(folder, ignore_errors=True)
        count = len(ids)
        with quiet_zarr(), writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            group = zarr.open_group(folder, mode="w")
            for name in ("caption_win", "caption_lose"):
                group.create_array(name, shape=(count,), chunks=(block,), dtype="float32", fill_value=np.nan)
            shape, chunks = (count, draws), (block, draws)
            for name in ("image_win", "image_lose"):
                group.create_array(name, shape=shape, chunks=chunks, dtype="float32", fill_value=np.nan)
            group.create_array("mask_seed", shape=shape, chunks=chunks, dtype="int64", fill_value=-1)
            blocks = -(-count // block)
            group.create_array(SEALS, shape=(blocks,), chunks=(1,), dtype="uint64", fill_value=0)
            names = np.array(ids, dtype=np.dtypes.StringDType())
            group.create_array("pair_id", data=names, chunks=(count,))
            group.attrs.update(attributes)
            group.attrs["ready"] = True
        return cls(group, folder)

    @classmethod
    def open(cls, folder: Path) -> PartialStore:
        """The store that `create` has left in `folder`; what zarr raises where it is damaged as a whole."""
        with quiet_zarr():
            return cls(zarr.open_group(folder, mode="r+"), folder)

    def read(self) -> tuple[dict[str, NDArray[Any]], list[int]]:
        """Whole arrays, and the numbers of the blocks that are missing or damaged in them."""
        with quiet_zarr():
            arrays = {name: self._whole(name) for name in ARRAYS}
            sealed = dict(enumerate(self._whole(SEALS).tolist()))
        seals = [_seal(number, arrays, self.span(number)) for number in range(-(-self.count // self._block))]
        return arrays, [number for number, one in enumerate(seals) if one != sealed.get(number)]

    def missing(self) -> list[int]:
        """Numbers of the blocks that are missing or damaged."""
        return self.read()[1]

    def _whole(self, name: str) -> NDArray[Any]:
        """An array, with its fill value where a chunk cannot be read."""
        array = self._arrays[name]
        with suppress(Exception):  # zarr and its codecs raise many types
            whole: NDArray[Any] = array[:]
            return whole
        whole = np.full(array.shape, array.fill_value, array.dtype)
        for start in range(0, len(whole), array.chunks[0]):
            part = slice(start, start + array.chunks[0])
            with suppress(Exception):
                whole[part] = array[part]
        return whole

    def span(self, number: int) -> slice:
        """The preferences of a block."""
        return slice(number * self._block, min((number + 1) * self._block, self.count))

    def length(self, number: int) -> int:
        """Number of preferences in a block."""
        span = self.span(number)
        return int(span.stop - span.start)

    def write(self, number: int, arrays: Arrays) -> None:
        """Keeps a whole block, and seals it.

        Raises:
            DataError: the file system refuses.
        """
        with quiet_zarr(), writing(self._folder):
            for name, values in arrays.items():
                self._arrays[name][self.span(number)] = values
            self._arrays[SEALS][number] = np.uint64(_seal(number, arrays, slice(None)))


def attributes_of(folder: Path) -> dict[str, Any]:
    """A store's attributes; none where it was killed while it was created."""
    try:
        with quiet_zarr():
            return dict(zarr.open_group(folder, mode="r").attrs)
    except Exception:  # zarr raises several types of its own
        return {}


def read_whole(folder: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays of a finished store; None where a block of it is missing or damaged."""
    try:
        arrays, damaged = PartialStore.open(folder).read()
    except Exception:  # zarr raises several types of its own
        return None
    return None if damaged else arrays


def _seal(number: int, arrays: Arrays, part: slice) -> int:
    """Digest of the values of a block, which lie in a part of the arrays."""
    found = blake2b(str(number).encode(), digest_size=8)
    for name in ARRAYS:
        # There are several NaN, and Zarr gives back one of them. No log-prob is positive.
        found.update(np.nan_to_num(arrays[name][part], nan=1.0).tobytes())
    return int.from_bytes(found.digest())


@contextmanager
def quiet_zarr() -> Iterator[None]:
    """Zarr warns that its string type has no final specification; the ids are for readers alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
