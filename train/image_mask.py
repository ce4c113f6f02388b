"""Which image tokens a log-prob is taken over: masks as a pure function of seeds.

Show-o's image log-prob depends on which codes are hidden, so winner, loser, policy and reference must all
see the same mask, now and after a restart. Source of the rule: Show-o's training mask (arXiv 2408.12528).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

MASK_RULE = "cosine"


def mask_seed(pair_id: str, draw: int, seed: int) -> int:
    """The 63-bit seed of one of a preference's masks."""
    text = f"{seed}/{draw}/{pair_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def mask_from_uniforms(share: float, ranks: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The mask that uniform draws decide, True = hidden.

    `share` in [0, 1) hides round(N cos(pi/2 share)) of the N tokens, at least one; `ranks` [N] decide which.
    The official code uses the sorting order of `ranks` itself as ranks, which is as uniform; so do we.
    """
    hidden = max(1, round(len(ranks) * max(0.0, math.cos(share * math.pi / 2))))
    return np.argsort(ranks, kind="stable") < hidden


def mask_from_seed(seed: int, tokens: int) -> NDArray[np.bool_]:
    """The mask of a stored seed over `tokens` image tokens, True = hidden."""
    uniforms = np.random.default_rng(seed).random(tokens + 1)
    return mask_from_uniforms(float(uniforms[0]), uniforms[1:])


def image_mask(pair_id: str, draw: int, seed: int, tokens: int) -> NDArray[np.bool_]:
    """Mask number `draw` of a preference, bool [tokens], True = hidden."""
    return mask_from_seed(mask_seed(pair_id, draw, seed), tokens)
