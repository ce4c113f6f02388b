"""The latest pairs of an item in earlier rounds, read from disk one item at a time.

Of every line of an earlier round's pair file, 8 bytes of its id's digest and its place are held in memory:
16 MB for a million items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError
from engine.records import CaptionPair, ImagePair, Preference, Record


class Earlier(Record):
    """An item's latest pairs in earlier rounds."""

    captions: CaptionPair | None = None
    images: ImagePair | None = None


class EarlierPairs:
    """The pair files of earlier rounds, in order."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._rounds = [_Round(file) for file in files][::-1]

    def of(self, item: str) -> Earlier:
        """The latest pair of each side; an item that made no pair in a round keeps the one it had."""
        captions, images = None, None
        for one in self._rounds:
            found = one.find(item)
            if found is not None:
                captions, images = captions or found.captions, images or found.images
            if captions and images:
                break
        return Earlier(captions=captions, images=images)


class _Digest(Record):
    """The part of a line that the index needs."""

    id: str


class _Round:
    """One pair file with an index."""

    def __init__(self, file: Path) -> None:
        self._file = file
        decoder = msgspec.json.Decoder(_Digest)
        keys: list[int] = []
        places: list[int] = []
        place = 0
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    keys.append(_key(decoder.decode(line).id))
                except msgspec.MsgspecError as error:
                    raise DataError(f"{file}, line {number}: not a pair: {error}") from error
                places.append(place)
                place += len(line)
        every: NDArray[np.uint64] = np.array(keys, np.uint64)
        order = np.argsort(every, kind="stable")
        self._keys, self._places = every[order], np.array(places, np.int64)[order]

    def find(self, item: str) -> Preference | None:
        key = np.uint64(_key(item))
        start = int(np.searchsorted(self._keys, key))
        for place in self._places[start : int(np.searchsorted(self._keys, key, side="right"))]:
            with self._file.open("rb") as lines:
                lines.seek(int(place))
                found = msgspec.json.decode(lines.readline(), type=Preference)
            if found.id == item:
                return found
        return None


def _key(item: str) -> int:
    return int.from_bytes(hashlib.blake2b(item.encode(), digest_size=8).digest(), "little")
