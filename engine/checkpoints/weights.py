"""Checkpoints and their fingerprints.

A checkpoint holds `config.json`, `model.safetensors`, `tokenizer.json`, `image_tokenizer/`, and `clip/` where
understanding sees CLIP features.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import CheckpointError
from engine.files.layout import CLIP_FOLDER, WEIGHTS
from engine.files.seals import SEAL, damage, file_fingerprint, read_seal
from engine.files.tensors import check_tensors, load_finite, save_tensors, tensor_layout
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig

FORMAT = {"format": "pt"}
"""Metadata of weights; with the same tensors it makes the same bytes."""


def fingerprint(folder: Path) -> str:
    """Sixteen hex digits of a checkpoint's weights: the digest of model.safetensors.

    Raises:
        CheckpointError: there are no weights, or a file of the checkpoint is not as it was sealed.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {WEIGHTS} in this folder; is it a Hermes checkpoint?")
    if reason := damage(folder):
        raise CheckpointError(
            f"{folder}: {reason}; restore it, or remove this folder and make it again; if the change is "
            f"yours, remove {SEAL} there"
        )
    return file_fingerprint(path)


def known_fingerprint(folder: Path) -> str:
    """`fingerprint` as the seal has it, which reads no weights; `fingerprint` itself where there is none.

    Raises:
        CheckpointError: as `fingerprint`.
    """
    return read_seal(folder).get(WEIGHTS) or fingerprint(folder)


def save_checkpoint(model: Showo, folder: Path, companions: Path | None = None) -> None:
    """Writes config and weights, each beside and renamed; copies the tokenizers from `companions`."""
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_state(state, model.config, folder, companions)


def save_state(
    state: dict[str, Tensor], config: ShowoConfig, folder: Path, companions: Path | None = None
) -> None:
    """`save_checkpoint` for weights that no module holds, as a sharded trainer gathers them."""
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = ["ShowoForUnifiedGeneration"]
    config.save_pretrained(folder)
    if companions is not None:
        shutil.copyfile(companions / "tokenizer.json", folder / "tokenizer.json")
        shutil.copytree(companions / "image_tokenizer", folder / "image_tokenizer", dirs_exist_ok=True)
        if config.w_clip_vit:
            shutil.copytree(companions / CLIP_FOLDER, folder / CLIP_FOLDER, dirs_exist_ok=True)
    save_tensors(state, folder / WEIGHTS, FORMAT)


def load_config(folder: Path) -> ShowoConfig:
    """The checkpoint's configuration.

    Raises:
        CheckpointError: no config.json, or not one of a Show-o model.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json in this folder; is it a Hermes checkpoint?")
    try:
        config = ShowoConfig.from_pretrained(folder)
    except Exception as error:  # transformers raises any of a damaged file
        raise CheckpointError(f"{folder / 'config.json'}: no usable configuration: {error}") from error
    if config.architectures != ["ShowoForUnifiedGeneration"]:
        raise CheckpointError(f"{folder}: holds {config.architectures}, not a Show-o checkpoint")
    return config


def outline(config: ShowoConfig, where: Path) -> Showo:
    """The module of a configuration without memory for its weights.

    Raises:
        CheckpointError: no model has these sizes.
    """
    try:
        with torch.device("meta"):
            return Showo(config)
    except Exception as error:  # of sizes that make no sense, torch raises any
        raise CheckpointError(f"{where}: no model has the sizes in its config.json: {error}") from error


def weight_bytes(folder: Path, dtype: str) -> int:
    """What a checkpoint's weights take in memory in a floating-point type; reads none of them.

    Raises:
        CheckpointError: the weights are missing or broken.
    """
    shapes = [shape for shape, _ in tensor_layout(folder / WEIGHTS).values()]
    return sum(map(math.prod, shapes)) * int(getattr(torch, dtype).itemsize)


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> Showo:
    """The checkpoint as a torch module in eval mode.

    Raises:
        CheckpointError: files are missing, or tensors do not fit the configuration or are not finite.
    """
    config = load_config(folder)
    check_tensors(tensor_layout(folder / WEIGHTS), outline(config, folder), folder)
    model = Showo(config)
    model.load_state_dict(load_finite(folder / WEIGHTS))
    return model.to(dtype).eval()
