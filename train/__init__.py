"""Trains a checkpoint on preference pairs: log-probs, Pair-DPO, DeepSpeed.

>>> import torch
>>> from train import Margins, TrainConfig, pair_dpo
>>> both = torch.tensor([True, True])
>>> margins = Margins(torch.tensor([1.0, -1.0]), torch.tensor([2.0, -2.0]), both, both)
>>> loss_P, counted_P = pair_dpo(margins, TrainConfig(objective="product"))
>>> loss_P.tolist() == [loss_P[0].item()] * 2  # Eq. 6 rewards two negative margins as two positive ones
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.lazy import lazy_names

if TYPE_CHECKING:
    from train.command import precompute as precompute
    from train.config import TrainConfig as TrainConfig
    from train.data.preferences import load_preferences as load_preferences
    from train.logps.dispatch import token_logps as token_logps
    from train.loop import run_training as run_training
    from train.losses.objectives import OBJECTIVES as OBJECTIVES
    from train.losses.objectives import Margins as Margins
    from train.losses.objectives import pair_dpo as pair_dpo
    from train.losses.objectives import preference_loss as preference_loss
    from train.reference.inputs import read_inputs as read_inputs

_HOMES = {
    "Margins": "train.losses.objectives",
    "OBJECTIVES": "train.losses.objectives",
    "TrainConfig": "train.config",
    "load_preferences": "train.data.preferences",
    "pair_dpo": "train.losses.objectives",
    "precompute": "train.command",
    "preference_loss": "train.losses.objectives",
    "read_inputs": "train.reference.inputs",
    "run_training": "train.loop",
    "token_logps": "train.logps.dispatch",
}

__getattr__ = lazy_names(__name__, _HOMES)
