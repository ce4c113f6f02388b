"""Which preferences and which of their masks each step takes: a pure function of seed and step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from train.config import TrainConfig


class Sample(NamedTuple):
    """One preference at one step."""

    place: int
    """Index into the usable preferences."""
    masks: tuple[int, ...]
    """Numbers of the masks, each below K."""
    epoch: int
    """How often the preference was taken before."""
    paired: bool = True
    """Whether its pairs come along; else its real image and caption alone."""


def samples_at(step: int, count: int, config: TrainConfig) -> list[Sample]:
    """What a 0-based step takes of `count` usable preferences.

    Steps cut one endless row of permutations into batches, so every preference is taken once an epoch, the
    last few of an epoch included. Its pairs come in one epoch of `dpo_every_n_epochs`, which one depends
    on its place, and their masks rotate from one time to the next.
    """
    found = []
    for position in range(step * config.batch_size, (step + 1) * config.batch_size):
        epoch, offset = divmod(position, count)
        place = int(np.random.default_rng((config.order_seed, epoch)).permutation(count)[offset])
        times, missing = divmod(epoch + place, config.dpo_every_n_epochs)
        first = (times - -(-place // config.dpo_every_n_epochs)) * config.masks_per_step
        masks = tuple((first + i) % config.num_masks for i in range(config.masks_per_step))
        found.append(Sample(place, masks, epoch, paired=not missing))
    return found
