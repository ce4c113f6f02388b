"""Writes safetensors files whole or not at all, readable like any other file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes beside and renames; the format's own writer would leave the file to its owner alone."""
    beside = path.with_name(path.name + ".new")
    save_file(dict(tensors), beside, metadata=metadata)
    umask = os.umask(0)
    os.umask(umask)
    beside.chmod(0o666 & ~umask)
    beside.replace(path)
