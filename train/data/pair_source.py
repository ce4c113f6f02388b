"""Steps' rows and reference log-probs, from preferences and their store.

Legend: R rows, P preferences of one pass, K masks of a preference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.records import Preference
from train.batch import Layout, PairRows, pair_rows
from train.config import TrainConfig
from train.image_mask import ImageDraw, draw_from_seed, real_seed
from train.loss import PairLogps
from train.preferences import usable
from train.reference import Reference
from train.schedule import Visit, visits


class PairSource:
    """What a step is made of: which preferences, their rows, and what the reference gave for them."""

    def __init__(
        self,
        config: TrainConfig,
        preferences: Sequence[Preference],
        layout: Layout,
        reference: Reference,
    ) -> None:
        layout.check(preferences, real=config.real_caption_anchor + config.real_image_anchor > 0)
        self._config = config
        self._preferences = preferences
        self._layout = layout
        self._reference = reference
        self._usable = usable(preferences, config)
        self.skipped = len(preferences) - len(self._usable)

    def visits(self, step: int) -> list[Visit]:
        """All ranks' visits of a 0-based step."""
        return visits(
            step,
            count=len(self._usable),
            batch=self._config.batch,
            mask_draws=self._config.mask_draws,
            masks_per_step=self._config.masks_per_step,
            seed=self._config.seed,
            pairs_every=self._config.pairs_every,
        )

    def rows(self, chosen: Sequence[Visit]) -> PairRows:
        """The rows of some visits: pairs under the very masks and texts that the reference saw.

        Where a preference's real image has no codes, it has no likelihood: every visit has its pairs.
        """
        config = self._config
        preferences = [self._preferences[self._usable[visit.place]] for visit in chosen]
        shown = config.real_image_anchor > 0
        return pair_rows(
            self._layout,
            preferences,
            [self._paired_draws(visit) for visit in chosen],
            captions=config.uses_captions,
            images=config.uses_images,
            real_captions=config.real_caption_anchor > 0,
            real_images=list(map(self._real_draws, preferences, chosen)) if shown else (),
        )

    def _paired_draws(self, visit: Visit) -> list[ImageDraw]:
        tokens, index = self._layout.config.num_image_tokens, self._usable[visit.place]
        bare = not self._preferences[index].image_codes
        draws = visit.draws if visit.paired or bare else ()
        return [self._reference.image_draw(index, draw, tokens, self._config) for draw in draws]

    def _real_draws(self, preference: Preference, visit: Visit) -> list[ImageDraw]:
        config, tokens = self._config, self._layout.config.num_image_tokens
        first = visit.epoch * config.masks_per_step
        seeds = [real_seed(preference.id, first + i, config.seed) for i in range(config.masks_per_step)]
        return [draw_from_seed(seed, tokens, config.text_dropout) for seed in seeds]

    def tokens(self, batch: PairRows) -> int:
        """Number of tokens in a batch, padding left out."""
        return int((batch.rows.ids_RT != self._layout.words.pad).sum())

    def pair_logps(
        self, chosen: Sequence[Visit], batch: PairRows, logp_R: Tensor
    ) -> tuple[PairLogps, PairLogps]:
        """(captions, images) of some visits, from their rows' log-probs under the policy."""
        policy, reference = batch.split(logp_R), batch.split(self.reference_of(chosen, batch))
        captions = PairLogps(*policy[:2], *reference[:2], batch.has(batch.captions))
        images = PairLogps(*policy[2:], *reference[2:], batch.has(batch.images))
        return captions, images

    def reference_of(self, chosen: Sequence[Visit], batch: PairRows) -> Tensor:
        """The stored log-prob of each paired row, 0 for real ones; nothing is read from disk."""
        stored = self._reference
        pairs = np.array([self._usable[visit.place] for visit in chosen])
        draws = np.array([visit.draws for visit in chosen])[batch.images]
        captions, images = pairs[batch.captions], pairs[batch.images, None]
        parts = [stored.caption_win[captions], stored.caption_lose[captions]]
        parts += [values[images, draws].ravel() for values in (stored.image_win, stored.image_lose)]
        parts.append(np.zeros(len(batch.rows.ids_RT) - batch.paired, np.float32))
        return torch.from_numpy(np.concatenate(parts))
