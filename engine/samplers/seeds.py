"""One seed for each candidate, from what the candidate is and not from the batch it happens to be in."""

from __future__ import annotations

import hashlib


def sample_seed(seed: int, key: str, kind: str, index: int) -> int:
    """The 63-bit seed of candidate `index` of `kind` ("caption", "paint") for the item `key`.

    Pure: the same four values give the same seed in every process and on every machine.
    """
    # Not Python's `hash`, which is salted anew in every process.
    digest = hashlib.blake2b(f"{seed}\0{kind}\0{index}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
