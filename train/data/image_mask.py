"""What an image's log-prob is taken over and given: masks and text dropout as pure functions of seeds.

Show-o's image log-prob depends on which codes are masked and on the text before them, so winner, loser,
policy and reference must all see the same, now and after a restart. Source of the mask's rule: Show-o's
training mask (arXiv 2408.12528). Its training also leaves out some texts, for guidance; the released
HermesFlow code draws that for winner and loser apart, so that one may be scored with the text and the other
without.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MASK_RULE = "cosine"
_TEXT_STREAM = 1


class ImageMask(NamedTuple):
    """What one of a preference's K masks decides of its image rows."""

    masked: NDArray[np.bool_]
    """[tokens], True = the code is masked and predicted."""
    text: bool = True
    """Whether the caption is there; else the row is the sampler's unconditional prompt."""


def mask_seed(pair_id: str, number: int, seed: int) -> int:
    """The 63-bit seed of one of a preference's masks."""
    return _seed(f"{seed}/{number}/{pair_id}")


def real_seed(pair_id: str, number: int, seed: int) -> int:
    """The 63-bit seed of what the item's own image is seen under, the `number`-th time. No reference scores
    it, so every time has a seed of its own."""
    return _seed(f"{seed}/real/{number}/{pair_id}")


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def mask_from_uniforms(share: float, ranks: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The mask that uniform draws decide, True = masked.

    `share` in [0, 1) masks round(N cos(pi/2 share)) of the N tokens, at least one; `ranks` [N] decide which.
    The official code uses the sorting order of `ranks` itself as ranks, which is as uniform; so do we.
    """
    count = max(1, round(len(ranks) * max(0.0, math.cos(share * math.pi / 2))))
    return np.argsort(ranks, kind="stable") < count


def image_mask(seed: int, tokens: int, text_dropout: float = 0.0) -> ImageMask:
    """All that a seed decides over `tokens` image tokens."""
    uniforms = np.random.default_rng(seed).random(tokens + 1)
    # A stream of its own, so that the mask does not depend on `text_dropout`, a probability.
    uniform = np.random.default_rng((seed, _TEXT_STREAM)).random()
    masked = mask_from_uniforms(float(uniforms[0]), uniforms[1:])
    return ImageMask(masked, text=bool(uniform >= text_dropout))
