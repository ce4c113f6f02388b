"""What the image sampler needs of a model.

Legend: B canvases, T tokens, R rows, D hidden, K image codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from engine.models.phi import PhiLayer
from engine.models.showo_config import ShowoConfig


class CanvasModel(Protocol):
    """What the sampler needs of a model: the training module and the one vLLM holds both offer it."""

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

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin at positions [T]."""
        ...

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The LayerNorm before the head."""
        ...

    def code_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [R, D] -> logits over the image codes alone, [R, K]."""
        ...
