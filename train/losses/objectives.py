"""The ways to make one loss of a preference's two DPO margins: pure functions in one table.

Sources: HermesFlow (arXiv 2502.12148), Eq. 6 and its released code; label smoothing of cDPO (Mitchell, 2023).
Derivations, gradients and a picture: docs/objectives.md.
Legend: P preferences; a caption margin, b image margin, both with beta. Natural logarithms, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from train.config import Objective, TrainConfig

GATE = 1.0
"""Margin that both sides must have before `gated_product` multiplies them. At 1, the unit of a product, sum
and product agree along the whole edge, so that the loss is continuous."""


class Margins(NamedTuple):
    """Both margins of each preference; one counts only where its side is there."""

    captions_P: Tensor
    images_P: Tensor
    has_captions_P: Tensor
    """bool."""
    has_images_P: Tensor
    """bool."""

    @property
    def both(self) -> Tensor:
        """bool: preferences with both sides."""
        return self.has_captions_P & self.has_images_P


class PairDpo(NamedTuple):
    """The joint loss of each preference."""

    loss_P: Tensor
    """0 where the preference lacks what the objective needs."""
    counted_P: Tensor
    """bool: whether the preference contributes."""


Join = Callable[[Margins, TrainConfig], PairDpo]


def preference_loss(margin: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(margin); a share `smoothing` of the labels is taken to be the wrong way round.

    (1 - e) L(m) + e L(-m) with L(m) = -log sigmoid(m), which is L(m) + e m: its slope is e - sigmoid(-m), and
    it is least at m = log((1 - e) / e) instead of falling for ever.
    """
    loss = -F.logsigmoid(margin)
    return loss + smoothing * margin if smoothing else loss


def softmin(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """-t log((exp(-a/t) + exp(-b/t)) / 2), between the smaller of a and b and their mean.

    Its slopes are the softmax of (-a/t, -b/t). t to 0 gives the smaller, t to infinity the mean.
    """
    apart = (first - second).abs() / temperature
    # log((1 + exp(-x)) / 2), exact for small x as well.
    return torch.minimum(first, second) - temperature * torch.log1p(torch.expm1(-apart) / 2)


def _sum(margins: Margins, weights: tuple[float, float], smoothing: float) -> PairDpo:
    counted_P = torch.zeros_like(margins.has_captions_P)
    loss_P = torch.zeros_like(margins.captions_P)
    sides = (margins.captions_P, margins.has_captions_P), (margins.images_P, margins.has_images_P)
    for (margin_P, has_P), weight in zip(sides, weights, strict=True):
        if weight > 0:
            loss_P = loss_P + weight * torch.where(has_P, preference_loss(margin_P, smoothing), 0.0)
            counted_P = counted_P | has_P
    return PairDpo(loss_P, counted_P)


def _weighted_sum(margins: Margins, config: TrainConfig) -> PairDpo:
    return _sum(margins, (config.caption_weight, config.image_weight), config.label_smoothing)


def _captions_alone(margins: Margins, config: TrainConfig) -> PairDpo:
    return _sum(margins, (config.caption_weight, 0.0), config.label_smoothing)


def _images_alone(margins: Margins, config: TrainConfig) -> PairDpo:
    return _sum(margins, (0.0, config.image_weight), config.label_smoothing)


def _product(margins: Margins, config: TrainConfig) -> PairDpo:
    loss_P = preference_loss(margins.captions_P * margins.images_P, config.label_smoothing)
    return PairDpo(torch.where(margins.both, loss_P, 0.0), margins.both)


def _gated_product(margins: Margins, config: TrainConfig) -> PairDpo:
    summed = _sum(margins, (1.0, 1.0), config.label_smoothing)
    inside_P = margins.both & (margins.captions_P >= GATE) & (margins.images_P >= GATE)
    level = preference_loss(margins.captions_P.new_tensor(GATE), config.label_smoothing)
    loss_P = preference_loss(margins.captions_P * margins.images_P, config.label_smoothing) + level
    return PairDpo(torch.where(inside_P, loss_P, summed.loss_P), summed.counted_P)


def _softmin(margins: Margins, config: TrainConfig) -> PairDpo:
    joined_P = softmin(margins.captions_P, margins.images_P, config.joint_temperature)
    one_P = torch.where(margins.has_captions_P, margins.captions_P, margins.images_P)
    margin_P = torch.where(margins.both, joined_P, one_P)
    counted_P = margins.has_captions_P | margins.has_images_P
    return PairDpo(torch.where(counted_P, preference_loss(margin_P, config.label_smoothing), 0.0), counted_P)


OBJECTIVES: Mapping[Objective, Join] = {
    "sum": _weighted_sum,
    "product": _product,
    "gated_product": _gated_product,
    "softmin": _softmin,
    "und": _captions_alone,
    "gen": _images_alone,
}


def pair_dpo(margins: Margins, config: TrainConfig, objective: Objective | None = None) -> PairDpo:
    """Joins the two margins of each preference under `objective`, or the configuration's own.

    sum            w_c L(a) + w_i L(b), the released code; und and gen have one weight at 0
    product        L(ab), Eq. 6: flat where a = b = 0, and it pushes two negative margins further down
    gated_product  L(ab) + L(1) where a and b are at least 1, L(a) + L(b) elsewhere; continuous
    softmin        L(s), s the soft minimum of a and b; at temperature 1, log(1 + (exp(-a) + exp(-b)) / 2)

    L is `preference_loss`. A preference with one side contributes that side alone, to `product` nothing.
    """
    return OBJECTIVES[objective or config.objective](margins, config)
