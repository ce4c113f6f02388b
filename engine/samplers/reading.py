"""What the passes that read an image share: the model they need, the image's embedding, and its mask.

Legend: B images, T tokens, R rows, V vocabulary, N features of an image, F
their width, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from engine.models.masks import feature_mask
from engine.models.phi import PhiLayer
from engine.models.showo_config import ShowoConfig


class ReadingModel(Protocol):
    """What reading needs of a model: the training module and the one vLLM holds both offer it."""

    config: ShowoConfig

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        ...

    @property
    def layers(self) -> Iterable[PhiLayer]:
        """The Phi blocks."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> [B, T, D]."""
        ...

    def project(self, features: Tensor) -> Tensor:
        """CLIP features [..., F] -> [..., D]; only where the configuration has them."""
        ...

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin at positions [B, T]."""
        ...

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The LayerNorm before the head."""
        ...

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [R, D] -> logits over the whole vocabulary, [R, V]."""
        ...


def uploaded(numbers: Sequence[object], device: torch.device) -> Tensor:
    """Whole numbers of the host where the model lies; nobody waits for what a device has yet to do."""
    return torch.tensor(numbers).to(device, non_blocking=True)


def embedded(model: ReadingModel, ids: Tensor, features: Sequence[Tensor | None]) -> Tensor:
    """ids [B, T] -> [B, T, D], with projected CLIP features in place of the ids that stand for them."""
    hidden = model.embed(ids)
    if model.config.w_clip_vit:
        start = model.config.image_start
        seen = torch.stack([one for one in features if one is not None])
        projected = model.project(seen.to(hidden.device, non_blocking=True))
        hidden[:, start : start + seen.shape[1]] = projected.to(hidden.dtype)
    return hidden


def stem_mask(config: ShowoConfig, length: int, device: torch.device) -> Tensor:
    """What the tokens of `[mmu] image [eoi] text` see of each other, [T, T]."""
    if config.w_clip_vit:
        return feature_mask(length, config.image_start, config.clip_tokens, device)[0, 0]
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    mask[: config.prefix_length, : config.prefix_length] = True
    return mask
