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
    if config.batch % world:
        raise ConfigError(f"train: batch is {config.batch}, it must be a multiple of the {world} ranks")
    share = config.batch // world
    micro = config.micro_batch or share
    if share % micro:
        raise ConfigError(
            f"train: micro_batch is {micro}, it must divide a rank's share of the batch, {share} preferences"
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
        pinned = {"pin_memory": config.device_type == "cuda"}
        zero["offload_optimizer"] = {"device": config.offload, **pinned}
        if config.offload == "nvme":
            zero["offload_optimizer"]["nvme_path"] = config.offload_dir
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": config.clip,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_optimization": zero,
        # torch's AdamW under offload too: DeepSpeed's own would compile an extension on its first use.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    if config.dtype == "bfloat16":
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings
