"""Safetensors files: written whole or not at all, and their layout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.errors import CheckpointError
from engine.files.atomic import atomic_path, writing

TensorLayout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of every tensor by its name."""
WEIGHT_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types that weights may have."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a file that appears whole or not at all.

    Raises:
        DataError: the file system refuses.
    """
    with atomic_path(path) as beside, writing(path):
        save_file(dict(tensors), beside, metadata=metadata)
        # The format's own writer leaves the file to its owner alone.
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)


def load_finite(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: one of them is not finite.
        OSError, SafetensorError: the file is missing or broken.
    """
    found = load_file(path)
    for name, tensor in found.items():
        require_finite(name, tensor, str(path))
    return found


def require_finite(name: str, tensor: Tensor, where: str) -> None:
    """Refuses weights that no training should have left; one pass over the tensor, without a copy.

    Raises:
        CheckpointError: names the tensor.
    """
    if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
        raise CheckpointError(f"{where}: {name} holds NaN or infinite numbers; take other weights")


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


def layout_of(tensors: Mapping[str, Tensor]) -> TensorLayout:
    """The layout of tensors that are open."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def check_tensors(found: TensorLayout, model: nn.Module, where: Path) -> None:
    """Compares names and shapes with the model's, and types with those that weights may have.

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
        f"{name} is {dtype}, not of float64, float32, float16 or bfloat16"
        for name, (_, dtype) in sorted(found.items())
        if dtype not in WEIGHT_TYPES
    ]
    if problems:
        raise CheckpointError(f"{where}: the weights do not fit: {'; '.join(problems)}")
