"""The official showlab/magvitv2 layout around our MAGVIT-v2, which bears the official parameter names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import torch

from engine.errors import CheckpointError, ConfigError
from engine.files.tensors import save_tensors
from engine.official.tensor_files import open_tensors
from engine.tokenizers.magvit_v2 import (
    CODEBOOK,
    PLACE_VALUES,
    MagvitV2,
    MagvitV2Config,
    magvit_v2_from,
    official_config,
)
from engine.tokenizers.magvit_v2_blocks import code_bits

MODEL_CLASS = "MAGVITv2"


def read_magvit(folder: Path, image_tokens: int) -> MagvitV2:
    """The image tokenizer of a release, for square images of `image_tokens` codes.

    Raises:
        CheckpointError: another model, missing or broken files, or tensors that do not fit.
    """
    path = folder / "config.json"
    try:
        config = official_config(path.read_bytes())
        config = msgspec.structs.replace(config, image_size=math.isqrt(image_tokens) * config.factor)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder}: no config.json here; --vq is the folder of showlab/magvitv2"
        ) from error
    except (OSError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: not usable: {error}; --vq is the folder of showlab/magvitv2"
        ) from error
    return magvit_v2_from(config, open_tensors(folder), folder)


def write_magvit(tokenizer: MagvitV2, folder: Path) -> None:
    """Writes a tokenizer as the official scripts load it, the buffers that ours computes included."""
    folder.mkdir()
    bits = tokenizer.config.bits
    state = dict(tokenizer.state_dict())
    state[CODEBOOK] = code_bits(torch.arange(2**bits)[None], bits)[0].T.contiguous()
    state[PLACE_VALUES] = 2 ** torch.arange(bits - 1, -1, -1)
    save_tensors(state, folder / "pytorch_model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(_official(tokenizer.config)))
    )


def _official(config: MagvitV2Config) -> dict[str, Any]:
    """The official config.json. The official class fixes its sizes, so only others are written out."""
    found: dict[str, Any] = {"_class_name": MODEL_CLASS, "_diffusers_version": "0.30.1"}
    release = MagvitV2Config()
    if (config.encoder, config.decoder, config.bits) == (release.encoder, release.decoder, release.bits):
        return found
    stacks = {
        name: {**msgspec.structs.asdict(stack), "z_channels": config.bits}
        for name, stack in (("encoder", config.encoder), ("decoder", config.decoder))
    }
    return {**found, **stacks, "codebook_dim": config.bits}
