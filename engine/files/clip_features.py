"""CLIP features of real images beside the pairs that need them: one file an image, named by its digest.

Training must see the very features that captions were sampled under, and codes cannot give them back: the
image tokenizer loses detail. So curation stores what the engine saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError
from engine.files.atomic import write_file
from engine.records import ImageTokens

FEATURES = "features"
SUFFIX = ".f32"


def save_features(folder: Path, image: ImageTokens) -> str:
    """Writes an image's features into `folder`; returns the name, empty without any."""
    if not image.features:
        return ""
    path = folder / (image.salt() + SUFFIX)
    if not path.is_file() or path.read_bytes() != image.features:
        write_file(path, image.features)
    return path.name


def check_features(folder: Path, name: str, tokens: int, size: int) -> Path:
    """The file of an image's features, without reading it.

    Raises:
        DataError: there is no such file in the folder itself, or it holds another number of features.
    """
    path = folder / name
    if not name or Path(name).name != name or not path.is_file():
        what = path if name else f"{folder}: an image without features"
        raise DataError(f"{what}: the CLIP features of a real image are missing; curate again")
    if path.stat().st_size != 4 * tokens * size:
        raise DataError(
            f"{path}: holds {path.stat().st_size} bytes, the checkpoint takes {tokens} features of {size}"
            " float32 numbers; curate with it first"
        )
    return path


def open_features(
    folder: Path, name: str, codes: Sequence[int], tokens: int, size: int
) -> NDArray[np.float32]:
    """The features [tokens, size] that `save_features` wrote of an image with these codes.

    Raises:
        DataError: as `check_features`, or the file is not as it was written.
    """
    path = check_features(folder, name, tokens, size)
    image = ImageTokens(codes=tuple(codes), features=path.read_bytes())
    if image.salt() + SUFFIX != name:
        raise DataError(f"{path}: was changed after it was written; restore it, or curate again")
    return np.frombuffer(image.features, "<f4").reshape(tokens, size)
