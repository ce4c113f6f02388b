"""The latest pairs of an item in earlier rounds.

Ids and places of pairs are held in memory; the pairs stay in their files and are read one item at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from curate.store.files import CURATE_AGAIN, IMPORTED
from engine.errors import UNREADABLE, DataError
from engine.files.seals import require_sealed
from engine.records import CaptionPair, ImagePair, Preference, Record


class PreviousPairs(Record):
    """An item's latest pairs in earlier rounds."""

    captions: CaptionPair | None = None
    images: ImagePair | None = None


class PairHistory:
    """The pair files of earlier rounds, in order. Eq. 10 compares scores, so those that were imported are
    passed over: others scored them.

    Raises (constructor):
        DataError: a file is not as it was sealed, or a line is no pair.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        files = [file for file in files if not file.with_name(IMPORTED).exists()]
        self._lines: dict[str, list[tuple[Path, int]]] = {}
        """Id -> (file, first byte) of its lines, the oldest first."""
        decoder = msgspec.json.Decoder(_Id)
        for file in files:
            require_sealed(file, CURATE_AGAIN)
            place = 0
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        self._lines.setdefault(decoder.decode(line).id, []).append((file, place))
                    except UNREADABLE as error:
                        raise DataError(f"{file}, line {number}: not a pair: {error}") from error
                    place += len(line)

    def of(self, item: str) -> PreviousPairs:
        """The latest pair of each side; an item that made no pair in a round keeps the one it had."""
        captions, images = None, None
        for file, place in reversed(self._lines.get(item, [])):
            with file.open("rb") as lines:
                lines.seek(place)
                pair = msgspec.json.decode(lines.readline(), type=Preference)
            captions, images = captions or pair.captions, images or pair.images
            if captions and images:
                break
        return PreviousPairs(captions=captions, images=images)


class _Id(Record):
    """The part of a line by which it is found."""

    id: str
