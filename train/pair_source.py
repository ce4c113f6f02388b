"""Steps' rows and reference log-probs, from preferences and their store.

Legend: R rows, P preferences of one pass, K masks of a preference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.records import Preference
from train.config import TrainConfig
from train.data.batch import Layout, PairRows, is_homologous, pair_rows
from train.data.image_mask import ImageMask, image_mask, real_seed
from train.data.preferences import usable
from train.data.schedule import Sample, samples_at
from train.losses.loss import PairLogps
from train.reference.reference import Reference


class PairSource:
    """What a step is made of: which preferences, their rows, and what the reference gave for them."""

    def __init__(
        self,
        config: TrainConfig,
        preferences: Sequence[Preference],
        layout: Layout,
        reference: Reference,
    ) -> None:
        layout.check(preferences, real=config.caption_sft_weight + config.image_sft_weight > 0)
        self._config = config
        self._preferences = preferences
        self._layout = layout
        self._reference = reference
        self._usable = usable(preferences, config)
        self.skipped = len(preferences) - len(self._usable)

    def samples(self, step: int) -> list[Sample]:
        """What a 0-based step takes, over all ranks."""
        return samples_at(step, len(self._usable), self._config)

    def rows(self, samples: Sequence[Sample]) -> PairRows:
        """The rows of some samples: pairs under the very masks and texts that the reference saw."""
        config = self._config
        preferences = [self._preferences[self._usable[one.place]] for one in samples]
        return pair_rows(
            self._layout,
            preferences,
            [self._pair_masks(one) for one in samples],
            captions=config.uses_captions,
            images=config.uses_images,
            real_captions=config.caption_sft_weight > 0,
            real_images=[*map(self._real_masks, preferences, samples)] if config.image_sft_weight else (),
        )

    def _pair_masks(self, sample: Sample) -> list[ImageMask]:
        tokens, index = self._layout.config.num_image_tokens, self._usable[sample.place]
        # Without its pairs an item that has nothing real would bring no row at all.
        bare = not is_homologous(self._preferences[index])
        numbers = sample.masks if sample.paired or bare else ()
        return [self._reference.image_mask(index, number, tokens, self._config) for number in numbers]

    def _real_masks(self, preference: Preference, sample: Sample) -> list[ImageMask]:
        config, tokens = self._config, self._layout.config.num_image_tokens
        first = sample.epoch * config.masks_per_step
        seeds = [real_seed(preference.id, first + i, config.seed) for i in range(config.masks_per_step)]
        return [image_mask(seed, tokens, config.text_dropout) for seed in seeds]

    def tokens(self, batch: PairRows) -> int:
        """Number of tokens in a batch, padding left out."""
        return int((batch.rows.ids_RT != self._layout.words.pad).sum())

    def pair_logps(
        self, samples: Sequence[Sample], batch: PairRows, logp_R: Tensor
    ) -> tuple[PairLogps, PairLogps]:
        """(captions, images) of some samples, from their rows' log-probs under the policy."""
        policy, reference = batch.split(logp_R), batch.split(self.reference_of(samples, batch))
        captions = PairLogps(*policy[:2], *reference[:2], batch.has(batch.captions))
        images = PairLogps(*policy[2:], *reference[2:], batch.has(batch.images))
        return captions, images

    def reference_of(self, samples: Sequence[Sample], batch: PairRows) -> Tensor:
        """The stored log-prob of each paired row, 0 for real ones; nothing is read from disk."""
        stored = self._reference
        pairs = np.array([self._usable[one.place] for one in samples])
        masks = np.array([one.masks for one in samples])[batch.images]
        captions, images = pairs[batch.captions], pairs[batch.images, None]
        parts = [stored.caption_win[captions], stored.caption_lose[captions]]
        parts += [values[images, masks].ravel() for values in (stored.image_win, stored.image_lose)]
        parts.append(np.zeros(len(batch.rows.ids_RT) - batch.paired, np.float32))
        return torch.from_numpy(np.concatenate(parts))
