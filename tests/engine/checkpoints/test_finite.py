"""Weights that are no numbers are refused wherever a checkpoint is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoints.weights import load_model
from engine.errors import CheckpointError
from engine.files.layout import WEIGHTS
from engine.files.tensors import require_finite
from engine.models.clip_tower import ClipTower
from engine.tokenizers.image import load_image_tokenizer


@pytest.mark.parametrize(
    ("place", "read"),
    [(".", load_model), ("clip", ClipTower.load), ("image_tokenizer", load_image_tokenizer)],
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named(
    clip_checkpoints: tuple[Path, Path],
    tmp_path: Path,
    place: str,
    read: Callable[[Path], object],
    bad: float,
) -> None:
    folder = shutil.copytree(clip_checkpoints[0] / place, tmp_path / "copy")
    read(folder)
    state = load_file(folder / WEIGHTS)
    name = next(name for name in sorted(state) if name.endswith("weight"))
    state[name].view(-1)[-1] = bad
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}: {name} holds NaN or infinite numbers"):
        read(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_largest_numbers_of_every_type_are_finite(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    require_finite("w", torch.tensor([most, -most, 0], dtype=dtype), "here")
    require_finite("w", torch.zeros(0, dtype=dtype), "here")
    with pytest.raises(CheckpointError, match="here: w holds NaN"):
        require_finite("w", torch.tensor([0, -torch.inf], dtype=dtype), "here")
