"""Which split a file belongs to, told by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from engine.errors import DataError

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "evaluation", "eval"),
}
_NAMED = {word: split for split, words in _SPLITS.items() for word in words}
_WORD = re.compile(rf"(?<![^\W\d_])({'|'.join(_NAMED)})(?![^\W\d_])", re.IGNORECASE)
"""A split's name with no letter on either side."""


def split_of(name: str) -> str:
    """train, validation or test; several where a name has several; empty where it has none."""
    return " and ".join(sorted({_NAMED[word.lower()] for word in _WORD.findall(name)}))


def train_files(folder: Path, files: Iterable[Path]) -> tuple[Path, ...]:
    """All files; where their names tell several splits, those of the train split.

    Raises:
        DataError: the names tell splits, or one beside files of none, and none is train.
    """
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(split_of(file.name), []).append(file)
    if len(splits) < 2:
        return tuple(one for found in splits.values() for one in found)
    if "train" not in splits:
        listed = ", ".join(name or "others" for name in splits)
        raise DataError(
            f"{folder}: holds files of several splits ({listed}) and none is train; "
            "name one file, or part the folder"
        )
    return tuple(splits["train"])
