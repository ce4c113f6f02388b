"""Show-o as a plain torch module: the model that trains, under the official parameter names.

Source: Show-o (arXiv 2408.12528), released code; Phi-1.5 with QK layer norm, parallel attention and MLP.
Legend: B batch, T tokens, H heads, E head dimension, D hidden, V vocabulary, N features of an
image, F their width.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from engine.kernels.phi import rotate
from engine.models.phi import dense_attention, rotary_tables, run_layer, run_layers
from engine.models.showo_config import ShowoConfig


class Attention(nn.Module):
    """Projections and QK layer norm; the attention itself is the caller's."""

    def __init__(self, config: ShowoConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.dense = nn.Linear(width, width)
        self.q_layernorm = nn.LayerNorm(config.head_dim, eps=config.layer_norm_eps)
        self.k_layernorm = nn.LayerNorm(config.head_dim, eps=config.layer_norm_eps)


class Mlp(nn.Module):
    """fc1, tanh-GELU, fc2."""

    def __init__(self, config: ShowoConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """A Phi block: x + attention(norm(x)) + mlp(norm(x))."""

    def __init__(self, config: ShowoConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)

    def normalise(self, hidden: Tensor) -> Tensor:
        return self.input_layernorm(hidden)

    def project(self, normed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.self_attn
        split = (*normed.shape[:-1], attention.heads, -1)
        return (
            rotate(attention.q_layernorm(attention.q_proj(normed).view(split)), cos, sin),
            rotate(attention.k_layernorm(attention.k_proj(normed).view(split)), cos, sin),
            attention.v_proj(normed).view(split),
        )

    def combine(self, hidden: Tensor, normed: Tensor, context: Tensor) -> Tensor:
        return hidden + self.self_attn.dense(context.flatten(-2)) + self.mlp(normed)


class Trunk(nn.Module):
    """Embedding, blocks, final LayerNorm."""

    def __init__(self, config: ShowoConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Language(nn.Module):
    """Trunk and language head."""

    def __init__(self, config: ShowoConfig) -> None:
        super().__init__()
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)


def projector(config: ShowoConfig) -> nn.Sequential:
    """CLIP features [..., F] -> embeddings [..., D], under the official names 0 and 2."""
    return nn.Sequential(
        nn.Linear(config.clip_size, config.hidden_size),
        nn.GELU(),
        nn.Linear(config.hidden_size, config.hidden_size),
    )


class Showo(nn.Module):
    """The unified model. `forward` gives hidden states; only the positions that need it meet the head."""

    def __init__(self, config: ShowoConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        """Whether a forward pass with gradients keeps only the blocks' inputs and computes the rest again."""
        self.showo = Language(config)
        if config.w_clip_vit:
            self.mm_projector = projector(config)

    @property
    def layers(self) -> list[Block]:
        """The Phi blocks."""
        return cast("list[Block]", list(self.showo.model.layers))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.showo.model.final_layernorm.weight.device

    @property
    def head(self) -> nn.Linear:
        """lm_head: weight [V, D] and bias [V]."""
        return self.showo.lm_head

    def embed(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> [B, T, D]."""
        return self.showo.model.embed_tokens(ids)

    def embed_seen(self, ids: Tensor, features: Tensor, rows: Tensor | None = None) -> Tensor:
        """ids [B, T] -> [B, T, D], with projected CLIP features in place of the ids that stand for them.

        features [R, N, F] belong to the R rows that begin with `<|mmu|>`, in their order. `rows` are their
        numbers, [R]; not given, they are looked for, and the device is waited for.
        """
        config = self.config
        hidden = self.embed(ids)
        # Projected even where no row needs it: sharded ranks gather the projector together.
        seen = self.mm_projector(features.to(hidden.dtype)).to(hidden.dtype)
        if rows is None:
            rows = (ids[:, 0] == config.vocabulary.mmu).nonzero()[:, 0]
        places = torch.arange(config.clip_tokens, device=ids.device) + config.image_start
        return hidden.index_put((rows[:, None], places), seen)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The LayerNorm before the head."""
        return self.showo.model.final_layernorm(hidden)

    def code_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [..., D] -> logits over the image codes alone, [..., K]."""
        start = self.config.vocabulary.code_offset
        codes = slice(start, start + self.config.codebook_size)
        return F.linear(hidden, self.head.weight[codes], self.head.bias[codes])

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [..., D] -> logits over the whole vocabulary, [..., V]."""
        return self.head(hidden)

    def project(self, features: Tensor) -> Tensor:
        """CLIP features [..., F] -> embeddings [..., D]."""
        return self.mm_projector(features.to(self.head.weight.dtype))

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary tables of positions [B, T] (or [T])."""
        return rotary_tables(positions, self.config.rotary_dim, self.config.rope_theta)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor | None = None,
        features: Tensor | None = None,
        seeing: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final LayerNorm, [B, T, D].

        ids [B, T]; mask [B or 1, 1, T, T] boolean, True = may attend; positions [B, T], 0..T-1 by default.
        features and `seeing` are the features and rows of `embed_seen`; a variant without CLIP has none.
        """
        if positions is None:
            positions = torch.arange(ids.shape[-1], device=ids.device)
        cos, sin = self.rotary(positions)
        hidden = self.embed(ids) if features is None else self.embed_seen(ids, features, seeing)
        attend = dense_attention(mask)
        if self.checkpointing and torch.is_grad_enabled():
            for index, layer in enumerate(self.layers):
                hidden = checkpoint(
                    run_layer,
                    *(layer, index, hidden, cos, sin, attend),
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
        else:
            hidden = run_layers(self.layers, hidden, cos, sin, attend)
        return self.final_norm(hidden)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Xavier-scale matrices and small embeddings, from a seed and its device; biases zero, norms one."""
        generator = torch.Generator(self.device).manual_seed(seed)
        depth = math.sqrt(2 * len(self.layers))
        for name, parameter in self.named_parameters():
            if "layernorm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                fan_out, fan_in = parameter.shape
                scale = 0.02 if "embed" in name else math.sqrt(2 / (fan_in + fan_out))
                if "dense" in name or "fc2" in name:
                    scale /= depth
                drawn = torch.randn(parameter.shape, generator=generator, device=self.device)
                parameter.copy_(drawn * scale)
