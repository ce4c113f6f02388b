"""The image files that a data set names: looked for inside its folders, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from curate.sources.images import read_rgb
from engine.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic")
_OFFICIAL = ("datasets/journeydb/", "datasets/journydb/")
"""How names in official files begin that lie in that very folder; the scripts spell it both ways."""
_SUBFOLDERS = ("", "imgs")
"""Where images may lie below a folder; JourneyDB keeps them in `imgs`."""


def unprefixed(name: str) -> str:
    """A name without the prefix of the official files, in one spelling for `a.png` and `./a.png`."""
    plain = os.path.normpath(name)
    return next((plain.removeprefix(one) for one in _OFFICIAL if plain.startswith(one)), plain)


def shared_name(folders: Sequence[Path], name: str) -> str:
    """What the names of one image file have in common, told from the names alone."""
    if len(folders) > 1 or ".." in name or os.path.isabs(name):
        roots = [os.path.abspath(folder) for folder in folders]
        paths = [os.path.normpath(os.path.join(root, name)) for root in roots]
        inside = [os.path.relpath(path, root) for path in paths for root in roots if _lies_in(root, path)]
        name = min(inside, key=len, default=name)
    return unprefixed(name).removeprefix(f"{_SUBFOLDERS[1]}/")


def stray(folders: Sequence[Path], name: str) -> str:
    """Why a name cannot lie in any of the folders, told from the name alone; empty where it can."""
    if "://" in name:
        return f"image {name!r} is an address; download it first"
    if "\0" in name:
        return f"image {name!r} is not a file name"
    if (".." not in name and not os.path.isabs(name)) or any(_lies_in(one, name) for one in folders):
        return ""
    return f"image {name!r} lies outside the data set's folder; --images names the folder that holds it"


def _lies_in(folder: Path | str, name: str) -> bool:
    root = os.path.abspath(folder)
    return os.path.normpath(os.path.join(root, name)).startswith(root.rstrip(os.sep) + os.sep)


def read_image(folders: Sequence[Path], name: str) -> Image.Image:
    """An image file in mode RGB, looked for in the folders: as it is named, then without an official prefix.

    Raises:
        DataError: it lies outside of all folders, also through a symbolic link; is missing; cannot be read.
    """
    if reason := stray(folders, name):
        raise DataError(reason)
    for one in dict.fromkeys((name, unprefixed(name))):
        for folder in folders:
            for path in (folder / below / one for below in _SUBFOLDERS if _lies_in(folder, one)):
                if os.path.isfile(path):
                    return _confined(folders, path, name)
    raise DataError(f"image {name!r} is missing: there is no such file in {' or '.join(map(str, folders))}")


def leads_inside(folders: Sequence[Path], path: Path) -> bool:
    """Whether a file lies in one of the folders once symbolic links are followed."""
    target = path.resolve()
    return any(target.is_relative_to(folder.resolve()) for folder in folders)


def _confined(folders: Sequence[Path], path: Path, name: str) -> Image.Image:
    if not leads_inside(folders, path):
        raise DataError(
            f"image {name!r} leads outside the data set's folder by a symbolic link; "
            "--images names the folder that holds it"
        )
    return read_rgb(path)
