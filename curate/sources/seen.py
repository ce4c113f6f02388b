"""Which ids have occurred, without keeping them."""

from __future__ import annotations

from array import array
from hashlib import blake2b


class SeenIds:
    """A hash table of 8-byte digests: 12 to 24 bytes an id, 36 for a moment while it grows.

    Two ids of one digest would be taken for the same: among ten million the odds are 1 in 370,000.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._count = 0

    def add(self, id_: str) -> bool:
        """Whether the id is new."""
        digest = int.from_bytes(blake2b(id_.encode(), digest_size=8).digest(), "little") or 1
        if not _put(self._slots, digest):
            return False
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            larger = array("Q", bytes(16 * len(self._slots)))
            for one in self._slots:
                if one:
                    _put(larger, one)
            self._slots = larger
        return True


def _put(slots: array[int], digest: int) -> bool:
    """Linear probing; 0 marks a free slot, and the number of slots is a power of two."""
    mask = len(slots) - 1
    place = digest & mask
    while found := slots[place]:
        if found == digest:
            return False
        place = (place + 1) & mask
    slots[place] = digest
    return True
