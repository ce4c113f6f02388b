"""LoRA (arXiv 2106.09685) through peft: adapters on the blocks' linear layers, merged into a full checkpoint.

Legend: O outputs, I inputs, A rank of an adapter.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.models.showo import Showo
from train.config import TrainConfig

DOWN, UP = "lora_A.default.weight", "lora_B.default.weight"
"""Ends of the names that peft gives to an adapter's matrices, [A, I] and [O, A]."""


def add_adapters(model: Showo, config: TrainConfig) -> None:
    """Puts adapters on the layers that `config` names and freezes everything else.

    Their first values depend on the seed alone; the model computes what it did before.
    """
    from peft import LoraConfig, inject_adapter_in_model

    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        target_modules=list(config.lora_targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.order_seed)
        inject_adapter_in_model(lora, model)


def merge_adapters(
    weights: Mapping[str, Tensor], adapters: Mapping[str, Tensor], config: TrainConfig
) -> dict[str, Tensor]:
    """The checkpoint's weights; where there is an adapter, alpha / A * up @ down is added, in float32."""
    merged = dict(weights)
    scale = config.lora_alpha / config.lora_rank
    for name, up_OA in adapters.items():
        if name.endswith(UP):
            target = name.removesuffix(UP) + "weight"
            down_AI = adapters[name.removesuffix(UP) + DOWN]
            merged[target] = weights[target].float() + scale * (up_OA.float() @ down_AI.float())
    return merged
