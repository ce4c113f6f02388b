"""Show-o as vLLM serves it, without vLLM: q, k and v in one matrix, and our kernels between the products.

Legend: B batch, T tokens, R rows, H heads, E head dimension, D hidden, K image codes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.kernels.phi import heads, tanh_gelu
from engine.models.showo import Block, Showo
from engine.models.showo_config import ShowoConfig


class FusedBlock:
    """`engine.serving.model.ServedBlock` on the weights of a training module's block."""

    def __init__(self, block: Block) -> None:
        self._block, attention = block, block.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._weight = torch.cat([part.weight for part in parts]).detach()
        self._bias = torch.cat([part.bias for part in parts]).detach()
        # The module's own become parts of these, so that nothing is held twice.
        for part, weight, bias in zip(parts, self._weight.chunk(3), self._bias.chunk(3), strict=True):
            part.weight.data, part.bias.data = weight, bias

    def normalise(self, hidden: Tensor) -> Tensor:
        return self._block.normalise(hidden)

    def project(self, normed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = self._block.self_attn
        qkv = F.linear(normed, self._weight, self._bias).unflatten(-1, (3, attention.heads, -1))
        return heads(qkv, attention.q_layernorm, attention.k_layernorm, cos, sin)

    def combine(self, hidden: Tensor, normed: Tensor, context: Tensor) -> Tensor:
        mlp = self._block.mlp
        inner = mlp.fc2(tanh_gelu(mlp.fc1(normed)))
        combined: Tensor = hidden + self._block.self_attn.dense(context.flatten(-2)) + inner
        return combined


class FusedShowo:
    """A `PrefixLM` on the weights of a training module."""

    def __init__(self, model: Showo) -> None:
        self._model = model
        self.config: ShowoConfig = model.config
        self.layers = [FusedBlock(block) for block in model.layers]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._model.device

    def embed(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> [B, T, D]."""
        return self._model.embed(ids)

    def project(self, features: Tensor) -> Tensor:
        """CLIP features [..., F] -> [..., D]."""
        return self._model.project(features)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin at positions [T]."""
        return self._model.rotary(positions)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The LayerNorm before the head."""
        return self._model.final_norm(hidden)

    def code_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [R, D] -> logits over the image codes alone, [R, K]."""
        return self._model.code_logits(hidden)

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [R, D] -> logits over the whole vocabulary, [R, V]."""
        return self._model.token_logits(hidden)
