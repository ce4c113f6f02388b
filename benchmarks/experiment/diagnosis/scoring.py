"""Log-probs of pairs of images under a checkpoint, with masks that winner and loser share.

Legend: P pairs, K mask draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.checkpoints.weights import load_model
from engine.records import ImageCandidate, ImagePair, Preference
from train.config import TrainConfig
from train.data.batch import Layout
from train.data.image_mask import image_mask
from train.logps.row_logps import RowLogps
from train.reference.reference import ReferenceBasis, score_block

Array = NDArray[np.float64]


class PairScores(NamedTuple):
    """Log-probs of the hidden codes, nats, summed over them."""

    win: Array
    """[P, K]."""
    lose: Array
    hidden: Array
    """Share of the codes that a draw hides, [P, K]."""


def images_alone(preference: Preference, win: ImageCandidate, lose: ImageCandidate) -> Preference:
    """A preference between these two images, with nothing to score of its captions."""
    pair = ImagePair(win=win, lose=lose, win_round=0, lose_round=0)
    return msgspec.structs.replace(preference, captions=None, images=pair)


def score_pairs(
    checkpoint: Path, preferences: Sequence[Preference], draws: int, config: TrainConfig
) -> PairScores:
    """Scores pairs of images under K draws, as training's reference pass does, text always given."""
    used = msgspec.structs.replace(config, num_masks=draws, masks_per_step=1, text_dropout=0.0)
    basis = ReferenceBasis.of(checkpoint, preferences, used)
    model = RowLogps(load_model(checkpoint).eval())
    found = score_block(preferences, basis, Layout.load(checkpoint), model)
    tokens = basis.image_tokens
    hidden = [[image_mask(int(seed), tokens).masked.mean() for seed in row] for row in found["mask_seed"]]
    return PairScores(
        found["image_win"].astype(float), found["image_lose"].astype(float), np.array(hidden, float)
    )
