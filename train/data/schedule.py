"""Which preferences and which of their masks each step visits: a pure function of seed and step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Visit(NamedTuple):
    """One preference at one step."""

    place: int
    """Index into the usable preferences."""
    draws: tuple[int, ...]
    """Numbers of the masks, each below K."""
    epoch: int
    """How often the preference was visited before."""
    paired: bool = True
    """Whether this visit brings its pairs; else its anchors alone."""


def visits(
    step: int,
    *,
    count: int,
    batch: int,
    mask_draws: int,
    masks_per_step: int,
    seed: int,
    pairs_every: int = 1,
) -> list[Visit]:
    """The visits of a 0-based step over `count` preferences.

    Steps cut one endless row of permutations into batches, so every preference is visited once an epoch,
    the last few of an epoch included. Its pairs come in one epoch of `pairs_every`, in which one depends on
    its place, and their masks rotate from one time to the next.
    """
    found = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, offset = divmod(position, count)
        place = int(_permutation(count, seed, epoch)[offset])
        before, missing = divmod(epoch + place, pairs_every)
        first = (before - -(-place // pairs_every)) * masks_per_step
        draws = tuple((first + i) % mask_draws for i in range(masks_per_step))
        found.append(Visit(place, draws, epoch, paired=not missing))
    return found


def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
