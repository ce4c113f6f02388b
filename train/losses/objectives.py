"""The ways to make one loss of a preference's two DPO margins: pure functions in one table.

Source: HermesFlow (arXiv 2502.12148), Eq. 6 and its released code. Why Eq. 6 does not train as printed:
docs/training.md.
Legend: P preferences; a caption margin, b image margin, both with beta. Natural logarithms, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from train.config import Objective, TrainConfig


class Margins(NamedTuple):
    """Both margins of each preference; one counts only where the preference has that pair."""

    captions_P: Tensor
    images_P: Tensor
    has_captions_P: Tensor
    """bool."""
    has_images_P: Tensor
    """bool."""

    @property
    def both(self) -> Tensor:
        """bool: preferences with both pairs."""
        return self.has_captions_P & self.has_images_P


PairLoss = tuple[Tensor, Tensor]
"""(loss_P, counted_P): the loss of each preference, 0 where it lacks what the objective needs, and whether it
contributes, bool."""


def preference_loss(margin: Tensor) -> Tensor:
    """-log sigmoid(margin)."""
    return -F.logsigmoid(margin)


def softmin(first: Tensor, second: Tensor) -> Tensor:
    """-log((exp(-a) + exp(-b)) / 2), between the smaller of a and b and their mean.

    Its slopes are the softmax of (-a, -b).
    """
    apart = (first - second).abs()
    # log((1 + exp(-x)) / 2), exact for small x as well.
    return torch.minimum(first, second) - torch.log1p(torch.expm1(-apart) / 2)


def _sum(margins: Margins, caption_weight: float, image_weight: float) -> PairLoss:
    counted_P = torch.zeros_like(margins.has_captions_P)
    loss_P = torch.zeros_like(margins.captions_P)
    for margin_P, has_P, weight in (
        (margins.captions_P, margins.has_captions_P, caption_weight),
        (margins.images_P, margins.has_images_P, image_weight),
    ):
        if weight > 0:
            loss_P = loss_P + weight * torch.where(has_P, preference_loss(margin_P), 0.0)
            counted_P = counted_P | has_P
    return loss_P, counted_P


def _product(margins: Margins, config: TrainConfig) -> PairLoss:
    loss_P = preference_loss(margins.captions_P * margins.images_P)
    return torch.where(margins.both, loss_P, 0.0), margins.both


def _softmin(margins: Margins, config: TrainConfig) -> PairLoss:
    joined_P = softmin(margins.captions_P, margins.images_P)
    one_P = torch.where(margins.has_captions_P, margins.captions_P, margins.images_P)
    margin_P = torch.where(margins.both, joined_P, one_P)
    counted_P = margins.has_captions_P | margins.has_images_P
    return torch.where(counted_P, preference_loss(margin_P), 0.0), counted_P


OBJECTIVES: Mapping[Objective, Callable[[Margins, TrainConfig], PairLoss]] = {
    "sum": lambda margins, config: _sum(margins, config.caption_weight, config.image_weight),
    "product": _product,
    "softmin": _softmin,
    "und": lambda margins, config: _sum(margins, config.caption_weight, 0.0),
    "gen": lambda margins, config: _sum(margins, 0.0, config.image_weight),
}


def pair_dpo(margins: Margins, config: TrainConfig, objective: Objective | None = None) -> PairLoss:
    """Joins the two margins of each preference under `objective`, or the configuration's own.

    sum      w_c L(a) + w_i L(b), the released code; und and gen have one weight at 0
    product  L(ab), Eq. 6: flat where a = b = 0, and it pushes two negative margins further down
    softmin  L(s), s the soft minimum of a and b, which is log(1 + (exp(-a) + exp(-b)) / 2)

    L is `preference_loss`. A preference with one pair contributes that pair alone, to `product` nothing.
    """
    return OBJECTIVES[objective or config.objective](margins, config)
