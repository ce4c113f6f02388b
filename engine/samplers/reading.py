"""What the passes that read an image share: the model they need, the image's embedding, and its mask.

Legend: B images, T tokens, P tokens of the image's prefix, R rows, V vocabulary, N features of an image, F
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


def embedded(model: ReadingModel, ids: Tensor, features: Sequence[Tensor | None]) -> Tensor:
    """ids [B, T] -> [B, T, D], with projected CLIP features in place of the ids that stand for them."""
    hidden = model.embed(ids)
    if model.config.w_clip_vit:
        start = model.config.image_start
        seen = torch.stack([one for one in features if one is not None])
        hidden[:, start : start + seen.shape[1]] = model.project(seen).to(hidden.dtype)
    return hidden


def prefix_mask(config: ShowoConfig) -> Tensor:
    """What the tokens of `[mmu] image [eoi]` see of each other, [P, P]."""
    if not config.w_clip_vit:
        return torch.ones(config.prefix_length, config.prefix_length, dtype=torch.bool)
    return feature_mask(config.prefix_length + 1, config.image_start, config.clip_tokens)[0, 0]
