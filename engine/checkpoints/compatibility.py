"""Whether a checkpoint may take the place of the one that serves, decided before anything is touched."""

from __future__ import annotations

import filecmp
from pathlib import Path

from engine.checkpoints.weights import load_config, outline
from engine.errors import CheckpointError
from engine.files.layout import CLIP_FOLDER, WEIGHTS
from engine.files.tensors import TensorLayout, check_tensors, tensor_layout
from engine.models.showo_config import ShowoConfig

COMPANIONS = (
    "tokenizer.json",
    *(f"{folder}/{name}" for folder in ("image_tokenizer", CLIP_FOLDER) for name in ("config.json", WEIGHTS)),
)
IGNORED = {"transformers_version", "dtype", "_name_or_path", "architectures"}


def check_swap(new: Path, tokenizers: Path, config: ShowoConfig) -> None:
    """Compares `new` with what serves: configuration, the tokenizers in `tokenizers`, layout of the tensors.

    A checkpoint without tokenizers is fine: they do not change while a model improves.

    Raises:
        CheckpointError: lists every difference at once.
    """
    problems = [*_config_problems(load_config(new), config), *_companion_problems(new, tokenizers)]
    try:
        check_weights(new, config)
    except CheckpointError as error:
        problems.append(str(error).removeprefix(f"{new}: "))
    if problems:
        raise CheckpointError(
            f"{new}: cannot take the place of the weights that serve: {'; '.join(problems)}"
        )


def check_weights(folder: Path, config: ShowoConfig, found: TensorLayout | None = None) -> None:
    """Compares names, shapes and types of a folder's tensors with the configuration's.

    `found` is their layout, by default that of the checkpoint's file.

    Raises:
        CheckpointError: lists every difference at once, or the file cannot be read.
    """
    found = tensor_layout(folder / WEIGHTS) if found is None else found
    check_tensors(found, outline(config, folder), folder)


def _config_problems(new: ShowoConfig, old: ShowoConfig) -> list[str]:
    found, wanted = new.to_dict(), old.to_dict()
    return [
        f"{name} is {found.get(name)!r}, the served model has {wanted.get(name)!r}"
        for name in sorted((found.keys() | wanted.keys()) - IGNORED)
        if found.get(name) != wanted.get(name)
    ]


def _companion_problems(new: Path, old: Path) -> list[str]:
    return [
        f"{name} differs from the served one"
        for name in COMPANIONS
        if (new / name).is_file()
        and (old / name).is_file()
        and not filecmp.cmp(new / name, old / name, shallow=False)
    ]
