"""Pixels to codes and back, a bounded number of images at a time.

Legend: B images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.devices import exact_convolutions
from engine.tokenizers.image import load_image_tokenizer, scaled, to_pixels, to_uint8

BATCH = 64


class Pixels:
    """The image tokenizer of a checkpoint."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._tokenizer = load_image_tokenizer(folder).to(self._device)
        # A GPU takes another kernel for another batch, and codes must not depend on it.
        self._batch = BATCH if self._device.type == "cpu" else 1

    @property
    def size(self) -> int:
        """Pixels on a side of the images that it takes and gives."""
        return self._tokenizer.config.image_size

    def codes(self, images: NDArray[np.uint8]) -> list[tuple[int, ...]]:
        """uint8 [B, H, W, 3] of the tokenizer's size -> the codes of each."""
        parts = torch.from_numpy(np.ascontiguousarray(images)).split(self._batch)
        with exact_convolutions():
            found = [self._tokenizer.encode(to_pixels(part.to(self._device))) for part in parts]
        return [tuple(row) for row in torch.cat(found).tolist()]

    def images(self, codes: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
        """Codes of B images -> uint8 [B, H, W, 3]."""
        parts = torch.tensor([list(row) for row in codes]).split(self._batch)
        with exact_convolutions():
            found = [to_uint8(self._tokenizer.decode(part)).cpu() for part in parts]
        return torch.cat(found).numpy()

    def scaled(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Square images in the tokenizer's size."""
        return scaled(images, self.size)
