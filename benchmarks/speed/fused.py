"""Show-o as vLLM serves it, without vLLM: q, k and v in one matrix, and our kernels between the products."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.kernels.phi import heads, tanh_gelu
from engine.models.showo import Block, Showo


class FusedBlock(Block):
    """`engine.serving.model.ServedBlock` on the weights of a training module's block."""

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        attention = block.self_attn
        self.input_layernorm, self.self_attn, self.mlp = block.input_layernorm, attention, block.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._weight = torch.cat([part.weight for part in parts]).detach()
        self._bias = torch.cat([part.bias for part in parts]).detach()
        # The module's own become parts of these, so that nothing is held twice.
        for part, weight, bias in zip(parts, self._weight.chunk(3), self._bias.chunk(3), strict=True):
            part.weight.data, part.bias.data = weight, bias

    def project(self, normed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.self_attn
        qkv = F.linear(normed, self._weight, self._bias).unflatten(-1, (3, attention.heads, -1))
        return heads(qkv, attention.q_layernorm, attention.k_layernorm, cos, sin)

    def combine(self, hidden: Tensor, normed: Tensor, context: Tensor) -> Tensor:
        inner = self.mlp.fc2(tanh_gelu(self.mlp.fc1(normed)))
        outer: Tensor = hidden + self.self_attn.dense(context.flatten(-2)) + inner
        return outer


class FusedShowo(Showo):
    """A `PrefixLM` on the weights of a training module without CLIP."""

    def __init__(self, model: Showo) -> None:
        nn.Module.__init__(self)
        self.config, self.checkpointing, self.showo = model.config, False, model.showo
        self._fused = [FusedBlock(block) for block in model.layers]

    @property
    def layers(self) -> list[Block]:
        """The fused blocks."""
        return [*self._fused]
