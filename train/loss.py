"""Pair-DPO: two DPO margins of one preference, and the ways to make one loss of them.

Sources: DPO (arXiv 2305.18290); HermesFlow (arXiv 2502.12148), Eq. 6, and its released code, which adds the
two losses instead of multiplying the two margins.
Legend: P preferences. All values are natural logarithms or plain numbers, float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from train.config import Objective, TrainConfig


class Dpo(NamedTuple):
    """DPO of one side."""

    loss_P: Tensor
    """-log sigmoid(margin)."""
    margin_P: Tensor
    """beta ((policy - reference) of the winner - (policy - reference) of the loser)."""


class PairDpo(NamedTuple):
    """The joint loss of each preference."""

    loss_P: Tensor
    """0 where the preference lacks what the objective needs."""
    counted_P: Tensor
    """bool: whether the preference contributes."""


class Side(NamedTuple):
    """Summed log-probs of one side's winners and losers; unused where `has_P` is False."""

    policy_win_P: Tensor
    policy_lose_P: Tensor
    reference_win_P: Tensor
    reference_lose_P: Tensor
    tokens_win_P: Tensor
    """Number of labels behind each winner's log-prob (a mean over masks for images)."""
    has_P: Tensor
    """bool: whether the preference has this side."""

    def dpo(self, beta: float) -> Dpo:
        """DPO of this side."""
        return dpo(self.policy_win_P, self.policy_lose_P, self.reference_win_P, self.reference_lose_P, beta)


class BatchLoss(NamedTuple):
    """A step's loss and what it is made of."""

    total: Tensor
    """Mean over the contributing preferences, anchors included; scalar."""
    loss_P: Tensor
    """Without anchors."""
    counted_P: Tensor
    captions: Dpo
    images: Dpo


def dpo(
    policy_win_P: Tensor,
    policy_lose_P: Tensor,
    reference_win_P: Tensor,
    reference_lose_P: Tensor,
    beta: float,
) -> Dpo:
    """DPO loss and margin of each preference from four summed log-probs."""
    margin_P = beta * ((policy_win_P - reference_win_P) - (policy_lose_P - reference_lose_P))
    return Dpo(loss_P=-F.logsigmoid(margin_P), margin_P=margin_P)


def pair_dpo(
    captions: Dpo,
    images: Dpo,
    has_captions_P: Tensor,
    has_images_P: Tensor,
    objective: Objective,
    caption_weight: float = 1.0,
    image_weight: float = 1.0,
) -> PairDpo:
    """Joins the two sides of each preference.

    `sum` adds the weighted losses of the sides that are there; `und` and `gen` are the same with one weight
    at 0. `product` is -log sigmoid(caption margin x image margin) and needs both sides. Its gradient is
    exactly zero while both margins are, and it rewards two negative margins as it does two positive ones.
    """
    if objective == "product":
        counted_P = has_captions_P & has_images_P
        loss_P = -F.logsigmoid(captions.margin_P * images.margin_P)
        return PairDpo(loss_P=torch.where(counted_P, loss_P, 0.0), counted_P=counted_P)
    weights = {"und": (1.0, 0.0), "gen": (0.0, 1.0)}.get(objective, (caption_weight, image_weight))
    counted_P = torch.zeros_like(has_captions_P)
    loss_P = torch.zeros_like(captions.loss_P)
    for side, has_P, weight in ((captions, has_captions_P, weights[0]), (images, has_images_P, weights[1])):
        if weight > 0:
            loss_P = loss_P + weight * torch.where(has_P, side.loss_P, 0.0)
            counted_P = counted_P | has_P
    return PairDpo(loss_P=loss_P, counted_P=counted_P)


def anchor(side: Side) -> Tensor:
    """Negative log-likelihood per token of each winner, [P]; 0 where the preference lacks the side."""
    return torch.where(side.has_P, -side.policy_win_P / side.tokens_win_P.clamp(min=1), 0.0)


def batch_loss(captions: Side, images: Side, config: TrainConfig) -> BatchLoss:
    """The step's loss under a configuration."""
    caption_dpo, image_dpo = captions.dpo(config.beta), images.dpo(config.beta)
    joined = pair_dpo(
        caption_dpo,
        image_dpo,
        captions.has_P,
        images.has_P,
        config.objective,
        config.caption_weight,
        config.image_weight,
    )
    total_P = joined.loss_P
    for weight, side in ((config.caption_anchor, captions), (config.image_anchor, images)):
        if weight > 0:
            total_P = total_P + weight * torch.where(joined.counted_P, anchor(side), 0.0)
    return BatchLoss(
        total=total_P.sum() / joined.counted_P.sum().clamp(min=1),
        loss_P=joined.loss_P,
        counted_P=joined.counted_P,
        captions=caption_dpo,
        images=image_dpo,
    )
