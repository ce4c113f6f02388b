"""CLIP's vision tower: what the `w_clip_vit` variant of Show-o sees of an image.

Source: Show-o's released `clip_encoder.py`: the patches of the last layer but one, the class token left out.
The tower is frozen and computes in float32. It lies in a checkpoint's `clip/` folder, under the names that
transformers publishes.

Legend: B images, H W pixels, N patches, F features.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from engine.devices import exact_convolutions
from engine.errors import CheckpointError
from engine.files.layout import WEIGHTS
from engine.files.tensors import load_finite

PREFIX = "vision_model."
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ClipTower:
    """Images to features, one at a time: an image's features must not depend on its batch.

    `size` is the side of the square it sees, in pixels; `tokens` is N and `width` F.
    """

    def __init__(self, model: CLIPVisionModel, device: torch.device | str = "cpu") -> None:
        self._model = model.eval().requires_grad_(False).to(device)
        self.config: CLIPVisionConfig = model.config
        self.size = cast(int, model.config.image_size)
        self.tokens = (self.size // cast(int, model.config.patch_size)) ** 2
        self.width = model.config.hidden_size

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> ClipTower:
        """Reads config.json and model.safetensors.

        Raises:
            CheckpointError: files are missing, or the tensors do not fit the configuration.
        """
        try:
            if not (folder / "config.json").is_file():
                raise OSError("no config.json in this folder")
            model = CLIPVisionModel(CLIPVisionConfig.from_pretrained(folder))
            state = load_finite(folder / WEIGHTS)
            model.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in state.items()})
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: no usable CLIP vision tower: {error}") from error
        return cls(model.float(), device)

    def state(self) -> dict[str, Tensor]:
        """The weights, under the module's own names."""
        return dict(self._model.state_dict())

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [B, H, W, 3] -> [B, N, F]."""
        rows = [self.seen(pixels(image, self.size)[None])[0] for image in images]
        return torch.stack(rows).cpu().numpy() if rows else np.zeros((0, self.tokens, self.width), np.float32)

    @torch.no_grad()
    def seen(self, pixels: Tensor) -> Tensor:
        """What `pixels` gives, as a batch [1, 3, size, size] -> [1, N, F] where the weights lie."""
        with exact_convolutions():
            found = self._model(pixels.to(self._model.device), output_hidden_states=True)
        return found.hidden_states[-2][:, 1:]


def pixels(image: NDArray[np.uint8], size: int) -> Tensor:
    """One image [H, W, 3] as CLIP's own preprocessing makes it, [3, size, size].

    The shorter side is scaled to `size`, bicubic, and the middle is kept.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    scaled = (width * size // short, height * size // short)
    whole = np.asarray(Image.fromarray(image).resize(scaled, Image.Resampling.BICUBIC))
    top, left = (scaled[1] - size) // 2, (scaled[0] - size) // 2
    square = torch.tensor(whole[top : top + size, left : left + size]).float() / 255
    return ((square - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).permute(2, 0, 1)
