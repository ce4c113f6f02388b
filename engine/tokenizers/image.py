"""The image tokenizer protocol, the small lookup-free one of the embedded model, and the files of both kinds.

Legend: B batch, H W pixels, h w tokens, K bits of a code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from engine.errors import UNREADABLE, CheckpointError, ConfigError
from engine.files.layout import WEIGHTS
from engine.files.tensors import load_finite, save_tensors
from engine.records import Record
from engine.tokenizers.magvit_v2 import MagvitV2, MagvitV2Config, magvit_v2_from
from engine.tokenizers.magvit_v2_blocks import code_bits, sign_codes


class ImageTokenizer(Protocol):
    """Pixels in [-1, 1] to codes and back."""

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] float in [-1, 1] -> codes [B, h*w] int64, row-major."""

    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, h*w] -> [B, 3, H, W] float, about [-1, 1], where the weights lie."""


class PatchLfqConfig(Record):
    """Sizes of a PatchLfq."""

    image_size: int = 48
    patch: int = 8
    bits: int = 10
    width: int = 128
    kind: str = "patch_lfq"


class _Residual(nn.Module):
    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(width, width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.first(F.gelu(x))))


class PatchLfq(nn.Module):
    """Lookup-free quantisation (MAGVIT-v2, arXiv 2310.05737) of non-overlapping patches.

    The encoder sees one patch at a time, so that a code depends on its own pixels alone; the decoder sees
    the neighbouring codes. Channel 0 holds the most significant bit of a code and a bit is z > 0.
    """

    def __init__(self, config: PatchLfqConfig) -> None:
        super().__init__()
        self.config = config
        pixels, width = 3 * config.patch**2, config.width
        self.encoder = nn.Sequential(
            nn.Conv2d(pixels, 2 * width, 1),
            _Residual(2 * width, 1),
            nn.GELU(),
            nn.Conv2d(2 * width, config.bits, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.bits, width, 3, padding=1),
            _Residual(width, 3),
            _Residual(width, 3),
            nn.GELU(),
            nn.Conv2d(width, pixels, 1),
        )

    def latent(self, pixels: Tensor) -> Tensor:
        """z before the sign, [B, K, h, w]."""
        return self.encoder(F.pixel_unshuffle(pixels, self.config.patch))

    def reconstruct(self, bits: Tensor) -> Tensor:
        """Bits in {-1, 1}, [B, K, h, w] -> pixels."""
        return F.pixel_shuffle(self.decoder(bits), self.config.patch)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] float in [-1, 1] -> codes [B, h*w] int64, row-major."""
        return sign_codes(self.latent(pixels))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, h*w] -> [B, 3, H, W] float, about [-1, 1], where the weights lie."""
        side = self.config.image_size // self.config.patch
        bits = code_bits(codes.to(next(self.parameters()).device), self.config.bits)
        return self.reconstruct(bits.unflatten(-1, (side, side)))


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(pixels: Tensor) -> Tensor:
    """float [B, 3, H, W] -> uint8 [B, H, W, 3], clamped."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def scaled(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Square images [B, H, H, 3] at `size` pixels a side, bicubic; as they are where they have it."""
    if images.shape[1] == size:
        return images
    whole = [Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC) for one in images]
    return np.stack([np.asarray(one) for one in whole])


class _Kind(Record):
    """The one field of config.json that says which tokenizer it configures."""

    kind: str = ""


def save_image_tokenizer(tokenizer: PatchLfq | MagvitV2, folder: Path) -> None:
    """Writes config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(tokenizer.config)))
    save_tensors(tokenizer.state_dict(), folder / WEIGHTS)


def load_image_tokenizer(folder: Path) -> PatchLfq | MagvitV2:
    """Reads what `save_image_tokenizer` wrote.

    Raises:
        CheckpointError: files are missing or do not fit each other.
    """
    try:
        raw = (folder / "config.json").read_bytes()
        match msgspec.json.decode(raw, type=_Kind).kind:
            case "patch_lfq":
                tokenizer = PatchLfq(msgspec.json.decode(raw, type=PatchLfqConfig))
                tokenizer.load_state_dict(load_finite(folder / WEIGHTS))
                return tokenizer.eval()
            case "magvit_v2":
                config = msgspec.json.decode(raw, type=MagvitV2Config)
                return magvit_v2_from(config, load_finite(folder / WEIGHTS), folder)
            case other:
                raise ConfigError(
                    f"its config.json has kind {other!r}, known are 'patch_lfq' and 'magvit_v2'"
                )
    except (OSError, RuntimeError, *UNREADABLE, SafetensorError, ConfigError) as error:
        raise CheckpointError(f"{folder}: no usable image tokenizer: {error}") from error
