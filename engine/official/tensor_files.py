"""The tensors of a release: one file or shards with an index, safetensors or torch's own format.

All are mapped, not read: a tensor's bytes come into memory when it is used and may leave it again, so that a
model of any size costs no more memory than its largest conversion.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.errors import CheckpointError

STEMS = ("pytorch_model", "model", "diffusion_pytorch_model")
SUFFIXES = (".safetensors", ".bin")
LFS = b"version https://git-lfs"


def open_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a release by name, mapped.

    Raises:
        CheckpointError: no weights here, or a file that is missing, cut short or more than tensors.
    """
    for suffix in SUFFIXES:
        for stem in STEMS:
            if (index := folder / f"{stem}{suffix}.index.json").is_file():
                return _open_shards(index)
            if (whole := folder / f"{stem}{suffix}").is_file():
                return open_file(whole)
    names = ", ".join(stem + suffix for stem in STEMS for suffix in SUFFIXES)
    raise CheckpointError(
        f"{folder}: no weights here; one of {names}, or its .index.json, must be in the folder"
    )


def _open_shards(index: Path) -> dict[str, Tensor]:
    try:
        places: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
        files = sorted(set(places.values()))
        outside = [name for name in files if Path(name).name != name]
    except Exception as error:  # of a damaged file, any
        raise CheckpointError(f"{index}: not an index of shards: {error!r}; download it again") from error
    if outside:
        raise CheckpointError(f"{index}: names files outside its folder: {', '.join(outside)}")
    if absent := [name for name in files if not (index.parent / name).is_file()]:
        raise CheckpointError(f"{index.parent}: shards are missing: {', '.join(absent)}; download them")
    tensors: dict[str, Tensor] = {}
    twice: set[str] = set()
    for name in files:
        found = open_file(index.parent / name)
        twice |= found.keys() & tensors.keys()
        tensors |= found
    if twice:
        raise CheckpointError(f"{index.parent}: in more than one shard: {', '.join(sorted(twice))}")
    return tensors


def open_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, mapped.

    Raises:
        CheckpointError: the file is cut short, a Git LFS pointer, or holds anything but tensors.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(len(LFS))
        if start == LFS:
            raise CheckpointError(f"{path}: a Git LFS pointer, not the weights; run `git lfs pull` there")
        if path.suffix == ".safetensors":
            return load_file(path)
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path}: cut short, or in PyTorch's format before 1.6; download it again, or load it with"
                " weights_only=True and save it anew"
            )
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors, so it is not read; is it a release?"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # of a damaged file, torch and safetensors raise any
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: cannot be read, probably cut short ({reason}); download it again"
        ) from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path}: holds a {type(stored).__name__}, not tensors by name")
    if strange := [str(name) for name, value in stored.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path}: not tensors: {', '.join(sorted(strange))}; is it a training state?")
    return stored
