"""A reproducible random subset, found in one pass with memory for the subset alone.

Every id has a keyed hash, and the `number` smallest are taken. So a subset does not depend on the order of
the rows, and when a data set grows, an old row can leave the subset but none can enter it: new rows alone
do. Keeping the largest hash taken is enough to know the subset again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from hashlib import blake2b

EVERYTHING = 1 << 128


def selection_hash(seed: int, id_: str) -> int:
    """128 bits that decide whether an id is taken under a seed."""
    key = blake2b(str(seed).encode(), digest_size=32).digest()
    return int.from_bytes(blake2b(id_.encode(), key=key, digest_size=16).digest(), "big")


def selection_bound(ids: Iterable[str], number: int, seed: int) -> int:
    """The largest hash among the `number` smallest; EVERYTHING where there are no more ids than that.

    The ids must be distinct. An id is selected where its hash does not exceed the bound.
    """
    largest: list[int] = []
    """The smallest hashes so far, negated: a heap with the largest on top."""
    more = False
    for id_ in ids:
        negated = -selection_hash(seed, id_)
        if len(largest) < number:
            heapq.heappush(largest, negated)
        else:
            more = True
            heapq.heappushpop(largest, negated)
    return -largest[0] if more else EVERYTHING
