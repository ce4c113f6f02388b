"""Pixels to codes and back, a bounded number of images at a time.

Legend: B images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.tokenizers.image import load_image_tokenizer, scaled, to_pixels, to_uint8

BATCH = 64


class Pixels:
    """The image tokenizer of a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_image_tokenizer(folder)

    @property
    def size(self) -> int:
        """Pixels on a side of the images that it takes and gives."""
        return self._tokenizer.config.image_size

    def codes(self, images: NDArray[np.uint8]) -> list[tuple[int, ...]]:
        """uint8 [B, H, W, 3] of the tokenizer's size -> the codes of each."""
        pixels = to_pixels(torch.from_numpy(np.ascontiguousarray(images)))
        parts = [self._tokenizer.encode(part) for part in pixels.split(BATCH)]
        return [tuple(row) for part in parts for row in part.tolist()]

    def images(self, codes: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
        """Codes of B images -> uint8 [B, H, W, 3]."""
        parts = torch.tensor([list(row) for row in codes]).split(BATCH)
        return torch.cat([to_uint8(self._tokenizer.decode(part)) for part in parts]).numpy()

    def scaled(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Square images in the tokenizer's size."""
        return scaled(images, self.size)
