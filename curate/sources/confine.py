"""Files that a data set names: inside its folder, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from curate.sources.images import read_rgb
from engine.errors import DataError


def stray(folder: Path, name: str) -> str:
    """Why a name cannot lie in a folder, told from the name alone; empty where it can."""
    if "://" in name:
        return f"image {name!r} is an address; images must lie in the data set's folder"
    if "\0" in name:
        return f"image {name!r} is not a file name"
    if ".." not in name and not os.path.isabs(name):
        return ""
    root = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(root, name))
    if not path.startswith(root.rstrip(os.sep) + os.sep):
        return f"image {name!r} lies outside the data set's folder"
    return ""


def read_inside(folder: Path, name: str, subfolders: tuple[str, ...] = ("",)) -> Image.Image:
    """An image file of a data set in mode RGB, looked for in each of the subfolders.

    Raises:
        DataError: the file lies outside the folder, also through a symbolic link; is none; cannot be read.
    """
    if reason := stray(folder, name):
        raise DataError(reason)
    root = folder.resolve()
    paths = [root / one / name for one in subfolders]
    path = next((one for one in paths if os.path.isfile(one)), None)
    if path is None:
        raise DataError(f"{paths[0]}: cannot be read as an image: there is no such file")
    if not path.resolve().is_relative_to(root):
        raise DataError(f"image {name!r} leads outside the data set's folder by a symbolic link")
    return read_rgb(path)
