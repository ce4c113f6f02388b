"""Pair-DPO: DPO margins of captions and images, and a step's loss of both.

Sources: DPO (arXiv 2305.18290); HermesFlow (arXiv 2502.12148). How two margins become one
loss: `train.losses.objectives`.
Legend: P preferences. All values are natural logarithms or plain numbers, float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from train.config import TrainConfig
from train.losses.objectives import Margins, pair_dpo


class PairLogps(NamedTuple):
    """Summed log-probs of one modality's winners and losers; unused where `has_P` is False."""

    policy_win_P: Tensor
    policy_lose_P: Tensor
    reference_win_P: Tensor
    reference_lose_P: Tensor
    has_P: Tensor
    """bool: whether the preference has a pair of this modality."""

    def margin(self, beta: float) -> Tensor:
        """The DPO margins, [P]."""
        return dpo_margin(*self[:4], beta)


class BatchLoss(NamedTuple):
    """A step's loss and what it is made of."""

    total: Tensor
    """Mean over the contributing preferences, likelihoods of real pairs included; scalar."""
    loss_P: Tensor
    """Of the pairs alone."""
    counted_P: Tensor
    """bool: which preferences the total is a mean over."""
    margins: Margins
    real_captions_P: Tensor
    """Negative log-likelihood per token of the items' own captions; 0 where it has no weight."""
    real_images_P: Tensor
    """The same of their images."""


def dpo_margin(
    policy_win_P: Tensor,
    policy_lose_P: Tensor,
    reference_win_P: Tensor,
    reference_lose_P: Tensor,
    beta: float,
) -> Tensor:
    """beta ((policy - reference) of the winner - (policy - reference) of the loser), from summed log-probs.

    DPO's loss is `preference_loss` of it.
    """
    return beta * ((policy_win_P - reference_win_P) - (policy_lose_P - reference_lose_P))


def batch_loss(
    captions: PairLogps,
    images: PairLogps,
    config: TrainConfig,
    step: int = 0,
    real_captions_P: Tensor | None = None,
    real_images_P: Tensor | None = None,
    homologous_P: Tensor | None = None,
) -> BatchLoss:
    """The loss of a 0-based step under a configuration; `real_*` are `PairRows.real_losses`.

    `homologous_P` tells whose real image has codes, by default everyone's: pairs of the others come every
    time that they are drawn, and count once.
    """
    margins = Margins(captions.margin(config.beta), images.margin(config.beta), captions.has_P, images.has_P)
    loss_P, counted_P = pair_dpo(margins, config, config.objective_at(step))
    if real_captions_P is not None or real_images_P is not None:
        counted_P = torch.ones_like(counted_P)
    none_P = torch.zeros_like(loss_P)
    real_captions_P = none_P if real_captions_P is None else real_captions_P
    real_images_P = none_P if real_images_P is None else real_images_P
    real_P = config.caption_sft_weight * real_captions_P + config.image_sft_weight * real_images_P
    times_P = torch.full_like(none_P, config.dpo_every_n_epochs)
    if homologous_P is not None:
        times_P = torch.where(homologous_P, times_P, 1.0)
    total_P = times_P * loss_P + real_P
    return BatchLoss(
        total=total_P.sum() / counted_P.sum().clamp(min=1),
        loss_P=loss_P,
        counted_P=counted_P,
        margins=margins,
        real_captions_P=real_captions_P.detach(),
        real_images_P=real_images_P.detach(),
    )
