"""The configuration that DeepSpeed is given."""

from __future__ import annotations

from typing import Any

from engine.errors import ConfigError
from train.config import TrainConfig

PERSIST = 100_000
"""Parameters of fewer elements stay whole on every rank (DeepSpeed's own default)."""


def shares(config: TrainConfig, world: int) -> tuple[int, int]:
    """(preferences of one pass, passes of one step), of each of `world` ranks.

    Raises:
        ConfigError: the batch cannot be shared out evenly.
    """
    if config.batch_size % world:
        raise ConfigError(
            f"train: batch_size is {config.batch_size}, it must be a multiple of the {world} ranks"
        )
    share = config.batch_size // world
    micro = config.micro_batch_size or share
    if share % micro:
        raise ConfigError(
            f"train: micro_batch_size is {micro}, it must divide a rank's share of the batch, {share}"
        )
    return micro, share // micro


def deepspeed_config(config: TrainConfig, world: int, persist: int = PERSIST) -> dict[str, Any]:
    """What `deepspeed.initialize` takes, for `world` ranks.

    Raises:
        ConfigError: see `shares`.
    """
    micro, passes = shares(config, world)
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = persist
    if config.offload != "none":
        pinned = config.device_type == "cuda"
        zero["offload_optimizer"] = {"device": config.offload, "pin_memory": pinned}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_optimization": zero,
        # torch's AdamW under offload too: DeepSpeed's own would compile an extension on its first use.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    if config.dtype == "bfloat16":
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings
