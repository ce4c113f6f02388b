"""A reproducible random subset: every id has a keyed hash, and those with the smallest are taken.

So a subset does not depend on the order of the rows, and when a data set grows, an old row can leave the
subset but none can enter it: new rows alone do.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from functools import partial
from hashlib import blake2b


def selection_hash(seed: int, id_: str) -> int:
    """128 bits that decide whether an id is taken under a seed."""
    key = blake2b(str(seed).encode(), digest_size=32).digest()
    return int.from_bytes(blake2b(id_.encode(), key=key, digest_size=16).digest(), "big")


def random_subset(ids: Iterable[str], number: int, seed: int) -> frozenset[str]:
    """`number` of the ids, or all where there are no more; the ids must be distinct."""
    return frozenset(heapq.nsmallest(number, ids, key=partial(selection_hash, seed)))
