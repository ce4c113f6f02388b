"""Phi's parallel block as two halves around an attention that the caller chooses.

Training runs dense attention under a mask, vLLM runs paged attention, and the image sampler runs a few
rows of a masked image against a stored text prefix. All three share these formulas; only `attend` differs.

Legend: B batch, T tokens, H heads, E head dimension, D hidden, R rows, V vocabulary, K image codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.showo_config import ShowoConfig

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q_BTHE, k_BTHE, v_BTHE) -> context_BTHE."""


class PhiLayer(Protocol):
    """What a block must offer: q, k, v before attention, and the residual sum after it."""

    def project(self, normed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k (after QK layer norm and rotation) and v, each [B, T, H, E]."""

    def normalise(self, hidden: Tensor) -> Tensor:
        """The one LayerNorm that attention and MLP share."""

    def combine(self, hidden: Tensor, normed: Tensor, context: Tensor) -> Tensor:
        """hidden + dense(context) + mlp(normed)."""


class PrefixLM(Protocol):
    """What samplers need of a model: the training module and the one vLLM holds both offer it."""

    config: ShowoConfig

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""

    @property
    def layers(self) -> Iterable[PhiLayer]:
        """The Phi blocks."""

    def embed(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., D]."""

    def project(self, features: Tensor) -> Tensor:
        """CLIP features [..., F] -> [..., D]; only where the configuration has them."""

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin at positions [...]."""

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The LayerNorm before the head."""

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [R, D] -> logits over the whole vocabulary, [R, V]."""

    def code_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [R, D] -> logits over the image codes alone, [R, K]."""


def rotary_tables(positions: Tensor, rotary_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each positions.shape + [rotary_dim], rotate-half layout, float32."""
    # float32 also for bfloat16 models: angles of late positions need all digits.
    powers = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=positions.device) / rotary_dim
    angles = positions.float()[..., None] * (theta**-powers)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def run_layer(
    layer: PhiLayer, index: int, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Attend
) -> Tensor:
    """One block over hidden [B, T, D]."""
    normed = layer.normalise(hidden)
    return layer.combine(hidden, normed, attend(index, *layer.project(normed, cos, sin)))


def run_layers(
    layers: Iterable[PhiLayer],
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    attend: Attend,
    read: Tensor | None = None,
) -> Tensor:
    """All blocks over hidden [B, T, D], or [N, D] of flat rows; the final LayerNorm is the caller's.

    `read` says which of the B * T tokens are wanted, as numbers or as booleans: they alone leave the last
    block, as flat rows.
    """
    every = list(layers)
    for index, layer in enumerate(every):
        normed = layer.normalise(hidden)
        context = attend(index, *layer.project(normed, cos, sin))
        # Every token must give the last block's keys and values; of what comes after them only some matter.
        if read is not None and index == len(every) - 1:
            hidden, normed = (x.reshape(-1, x.shape[-1])[read] for x in (hidden, normed))
            context = context.reshape(-1, *context.shape[-2:])[read]
        hidden = layer.combine(hidden, normed, context)
    return hidden


def dense_attention(mask: Tensor | None) -> Attend:
    """Attention of every row of a batch under a boolean mask [B or 1, 1, T, T], True = may attend."""

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
        )
        return out.transpose(1, 2)

    return attend
