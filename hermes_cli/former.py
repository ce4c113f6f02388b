"""Names of settings that earlier versions had, so that an old file is refused in one line that helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigError

FORMER: Mapping[str, str] = {
    "curate.min_margin": "",
    "curate.paint": "curate.image",
    "engine.transport": "",
    "eval.paint": "eval.image",
    "train.batch": "train.batch_size",
    "train.caption_anchor": "",
    "train.checkpointing": "train.gradient_checkpointing",
    "train.clip": "train.max_grad_norm",
    "train.image_anchor": "",
    "train.image_normalise": "",
    "train.image_vocabulary": "",
    "train.interpolation": "train.weight_averaging",
    "train.joint_temperature": "",
    "train.keep_best": "",
    "train.label_smoothing": "",
    "train.least_hidden": "",
    "train.mask_draws": "train.num_masks",
    "train.micro_batch": "train.micro_batch_size",
    "train.most_visits": "train.max_epochs",
    "train.offload_dir": "",
    "train.pairs_every": "train.dpo_every_n_epochs",
    "train.real_caption_anchor": "train.caption_sft_weight",
    "train.real_image_anchor": "train.image_sft_weight",
    "train.scale_rate": "train.mup_lr",
}
"""Former name -> today's, or empty where the setting is gone."""


def require_current(tree: Mapping[str, Any], where: str, remedy: str) -> None:
    """Refuses a tree of settings that has former names, all named at once.

    Raises:
        ConfigError: says where they stand, what they are now, and the remedy.
    """
    found = []
    for name, now in FORMER.items():
        table, _, leaf = name.partition(".")
        inner = tree.get(table)
        if isinstance(inner, Mapping) and leaf in inner:
            found.append(f"{name} is now {now}" if now else f"{name} is gone")
    if found:
        raise ConfigError(f"{where}: settings of an earlier version: {', '.join(found)}; {remedy}")
