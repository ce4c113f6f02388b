"""Checkpoints and their fingerprints.

A checkpoint holds `config.json`, `model.safetensors`, `tokenizer.json`, `image_tokenizer/`, and `clip/` where
understanding sees CLIP features.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.errors import CheckpointError
from engine.files.layout import CLIP_FOLDER, WEIGHTS
from engine.files.tensors import save_tensors
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig

TensorLayout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of every tensor by its name."""
FORMAT = {"format": "pt"}
"""Metadata of weights; with the same tensors it makes the same bytes."""
SETTLED = 10**9
"""Nanoseconds after which a second change of a file has another time than the first, whatever its clock."""
_digests: dict[tuple[int, ...], str] = {}


def fingerprint(folder: Path) -> str:
    """Sixteen hex digits of a checkpoint's weights: the digest of model.safetensors.

    Raises:
        CheckpointError: there are no weights.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {WEIGHTS} in this folder; is it a Hermes checkpoint?")
    return file_fingerprint(path)


def file_fingerprint(path: Path) -> str:
    """`fingerprint` of weights that lie elsewhere.

    Digesting gigabytes takes longer than a GPU takes for the rest of a swap, so a file that has not changed
    since this process read it is not read again.

    Raises:
        CheckpointError: there is no such file.
    """
    digest = hashlib.blake2b(digest_size=8)
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if identity in _digests:
                return _digests[identity]
            begun = time.time_ns()
            while block := stream.read(1 << 22):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if begun - found.st_ctime_ns > SETTLED:
        _digests[identity] = digest.hexdigest()
    return digest.hexdigest()


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
    config = ShowoConfig.from_pretrained(folder)
    if config.architectures != ["ShowoForUnifiedGeneration"]:
        raise CheckpointError(f"{folder}: holds {config.architectures}, not a Show-o checkpoint")
    return config


def check_tensors(found: TensorLayout, model: nn.Module, where: Path) -> None:
    """Compares names and shapes with the model's.

    Raises:
        CheckpointError: names every unknown, missing and mis-shaped tensor at once.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"unknown {name}" for name in sorted(found.keys() - wanted.keys())]
    problems += [f"missing {name}" for name in sorted(wanted.keys() - found.keys())]
    problems += [
        f"{name} has shape {list(found[name][0])}, the model {list(wanted[name])}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name][0] != wanted[name]
    ]
    problems += [
        f"{name} is {dtype}, not a floating type"
        for name, (_, dtype) in sorted(found.items())
        if not dtype.is_floating_point
    ]
    if problems:
        raise CheckpointError(f"{where}: the weights do not fit: {'; '.join(problems)}")


def weight_bytes(folder: Path, dtype: str) -> int:
    """What a checkpoint's weights take in memory in a floating-point type; reads none of them.

    Raises:
        CheckpointError: the weights are missing or broken.
    """
    shapes = [shape for shape, _ in tensor_layout(folder / WEIGHTS).values()]
    return sum(map(math.prod, shapes)) * getattr(torch, dtype).itemsize


def tensor_layout(path: Path) -> TensorLayout:
    """Name -> (shape, dtype) of a safetensors file, without reading the values.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    try:
        with safe_open(path, "pt") as stored:
            parts = {name: stored.get_slice(name) for name in stored.offset_keys()}
            return {name: (tuple(part.get_shape()), part[:0].dtype) for name, part in parts.items()}
    except Exception as error:  # safetensors raises its own, and OSError
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> Showo:
    """The checkpoint as a torch module in eval mode.

    Raises:
        CheckpointError: files are missing, or tensors do not fit the configuration.
    """
    model = Showo(load_config(folder))
    check_tensors(tensor_layout(folder / WEIGHTS), model, folder)
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.to(dtype).eval()
