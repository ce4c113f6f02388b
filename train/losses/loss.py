"""Pair-DPO: DPO of each side of a preference, and a step's loss of both.

Sources: DPO (arXiv 2305.18290); HermesFlow (arXiv 2502.12148). How two margins become one
loss: `train.losses.objectives`.
Legend: P preferences. All values are natural logarithms or plain numbers, float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from train.config import TrainConfig
from train.losses.objectives import Margins, pair_dpo, preference_loss


class Dpo(NamedTuple):
    """DPO of one side."""

    loss_P: Tensor
    """-log sigmoid(margin)."""
    margin_P: Tensor
    """beta ((policy - reference) of the winner - (policy - reference) of the loser)."""


class Side(NamedTuple):
    """Summed log-probs of one side's winners and losers; unused where `has_P` is False.

    Under `image_normalise` those of images are per hidden token, and so is all that follows from them.
    """

    policy_win_P: Tensor
    policy_lose_P: Tensor
    reference_win_P: Tensor
    reference_lose_P: Tensor
    tokens_win_P: Tensor
    """Number of labels behind each winner's log-prob (a mean over masks for images; 1 where normalised)."""
    has_P: Tensor
    """bool: whether the preference has this side."""

    def dpo(self, beta: float) -> Dpo:
        """DPO of this side."""
        return dpo(self.policy_win_P, self.policy_lose_P, self.reference_win_P, self.reference_lose_P, beta)


class Real(NamedTuple):
    """Log-probs of the homologous pairs, where an anchor wants them."""

    logp_P: Tensor
    """Summed over labels; of images a mean over masks."""
    tokens_P: Tensor
    """Number of labels, likewise."""

    def loss(self) -> Tensor:
        """Negative log-likelihood per token of each, [P]."""
        return -self.logp_P / self.tokens_P.clamp(min=1)


class BatchLoss(NamedTuple):
    """A step's loss and what it is made of."""

    total: Tensor
    """Mean over the contributing preferences, anchors included; scalar."""
    loss_P: Tensor
    """Of the pairs, without anchors."""
    counted_P: Tensor
    """bool: which preferences the total is a mean over."""
    captions: Dpo
    images: Dpo
    real_captions_P: Tensor
    """Negative log-likelihood per token of the items' own captions; 0 where no anchor wants it."""
    real_images_P: Tensor
    """The same of their images."""


def dpo(
    policy_win_P: Tensor,
    policy_lose_P: Tensor,
    reference_win_P: Tensor,
    reference_lose_P: Tensor,
    beta: float,
) -> Dpo:
    """DPO loss and margin of each preference from four summed log-probs."""
    margin_P = beta * ((policy_win_P - reference_win_P) - (policy_lose_P - reference_lose_P))
    return Dpo(loss_P=preference_loss(margin_P), margin_P=margin_P)


def anchor(side: Side) -> Tensor:
    """Negative log-likelihood per token of each winner, [P]; 0 where the preference lacks the side."""
    return torch.where(side.has_P, -side.policy_win_P / side.tokens_win_P.clamp(min=1), 0.0)


def batch_loss(
    captions: Side,
    images: Side,
    config: TrainConfig,
    step: int = 0,
    real_captions: Real | None = None,
    real_images: Real | None = None,
    homologous_P: Tensor | None = None,
) -> BatchLoss:
    """The loss of a 0-based step under a configuration; `real_*` where it has anchors on them.

    `homologous_P` tells whose real image has codes, by default everyone's: pairs of the others come at every
    visit, and count once.
    """
    caption_dpo, image_dpo = captions.dpo(config.beta), images.dpo(config.beta)
    margins = Margins(caption_dpo.margin_P, image_dpo.margin_P, captions.has_P, images.has_P)
    joined = pair_dpo(margins, config, config.objective_at(step))
    total_P = joined.loss_P
    for weight, side in ((config.caption_anchor, captions), (config.image_anchor, images)):
        if weight > 0:
            total_P = total_P + weight * torch.where(joined.counted_P, anchor(side), 0.0)
    none_P = torch.zeros_like(total_P)
    real_captions_P = real_captions.loss() if real_captions else none_P
    real_images_P = real_images.loss() if real_images else none_P
    real_P = config.real_caption_anchor * real_captions_P + config.real_image_anchor * real_images_P
    anchored = real_captions is not None or real_images is not None
    counted_P = torch.ones_like(joined.counted_P) if anchored else joined.counted_P
    times_P = torch.full_like(total_P, config.pairs_every)
    if homologous_P is not None:
        times_P = torch.where(homologous_P, times_P, 1.0)
    total_P = times_P * total_P + real_P
    return BatchLoss(
        total=total_P.sum() / counted_P.sum().clamp(min=1),
        loss_P=joined.loss_P,
        counted_P=counted_P,
        captions=caption_dpo,
        images=image_dpo,
        real_captions_P=real_captions_P.detach(),
        real_images_P=real_images_P.detach(),
    )
