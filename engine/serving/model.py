"""Show-o as vLLM serves it: vLLM's linear layers and paged attention around the formulas of `models.phi`.

The module tree bears the official names, so that a checkpoint's tensors find their places; only q, k and v
share one matrix. The blocks offer `normalise`, `project` and `combine`, so the image sampler runs on the
very weights that vLLM decodes with.

Legend: B batch, T tokens, H heads, E head dimension, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vllm.config import VllmConfig
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.weight_utils import default_weight_loader

from engine.errors import CheckpointError
from engine.files.tensors import require_finite
from engine.kernels.phi import heads, tanh_gelu
from engine.metering.stopwatch import FORWARD
from engine.models.phi import rotary_tables, run_layers
from engine.models.showo import projector
from engine.models.showo_config import ShowoConfig
from engine.serving.attention import paged_head_size, prefix_backend
from engine.serving.prompts import served_positions

SHARDS = {"q_proj": "q", "k_proj": "k", "v_proj": "v"}


class ServedAttention(nn.Module):
    """Projections, QK layer norm, and vLLM's paged attention."""

    def __init__(self, config: ShowoConfig, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        width, heads, head = config.hidden_size, config.num_attention_heads, config.head_dim
        self.qkv_proj = QKVParallelLinear(width, head, heads, bias=True, prefix=f"{prefix}.qkv_proj")
        self.dense = RowParallelLinear(width, width, bias=True, prefix=f"{prefix}.dense")
        self.q_layernorm = nn.LayerNorm(head, eps=config.layer_norm_eps)
        self.k_layernorm = nn.LayerNorm(head, eps=config.layer_norm_eps)
        self.heads, self.head = self.qkv_proj.num_heads, head
        backend = prefix_backend(vllm_config)
        paged = paged_head_size(backend, head)
        self.room = paged - head
        self.attn = Attention(
            self.heads,
            paged,
            head**-0.5,
            cache_config=vllm_config.cache_config,
            prefix=f"{prefix}.attn",
            attn_backend=backend,
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of new tokens, [T, H, E] each, over what is cached of their sequences and themselves."""
        # vLLM's kernels take some head sizes only. Zeros add nothing to a product, and are cut off again.
        if self.room:
            q, k, v = (F.pad(x, (0, self.room)) for x in (q, k, v))
        out = self.attn(*(x.flatten(-2) for x in (q, k, v)))
        return out.view(*q.shape)[..., : self.head]


class ServedMlp(nn.Module):
    """fc1, tanh-GELU, fc2."""

    def __init__(self, config: ShowoConfig, prefix: str) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.fc1 = ColumnParallelLinear(width, inner, bias=True, prefix=f"{prefix}.fc1")
        self.fc2 = RowParallelLinear(inner, width, bias=True, prefix=f"{prefix}.fc2")

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(tanh_gelu(self.fc1(x)[0]))[0]


class ServedBlock(nn.Module):
    """A Phi block on vLLM's layers; `PhiLayer` for the sampler."""

    def __init__(self, config: ShowoConfig, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ServedAttention(config, vllm_config, f"{prefix}.self_attn")
        self.mlp = ServedMlp(config, f"{prefix}.mlp")

    def normalise(self, hidden: Tensor) -> Tensor:
        return self.input_layernorm(hidden)

    def project(self, normed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.self_attn
        qkv = attention.qkv_proj(normed)[0].unflatten(-1, (3, attention.heads, -1))
        return heads(qkv, attention.q_layernorm, attention.k_layernorm, cos, sin)

    def combine(self, hidden: Tensor, normed: Tensor, context: Tensor) -> Tensor:
        return hidden + self.self_attn.dense(context.flatten(-2))[0] + self.mlp(normed)


class ServedTrunk(nn.Module):
    """Embedding, blocks, final LayerNorm."""

    def __init__(self, config: ShowoConfig, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size, config.hidden_size, prefix=f"{prefix}.embed_tokens"
        )
        self.layers = nn.ModuleList(
            ServedBlock(config, vllm_config, f"{prefix}.layers.{i}") for i in range(config.num_hidden_layers)
        )
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class ServedLanguage(nn.Module):
    """Trunk and language head."""

    def __init__(self, config: ShowoConfig, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.model = ServedTrunk(config, vllm_config, f"{prefix}.model")
        self.lm_head = ParallelLMHead(
            config.vocab_size, config.hidden_size, bias=True, prefix=f"{prefix}.lm_head"
        )


class ShowoForUnifiedGeneration(nn.Module):
    """The class under which a checkpoint's `architectures` finds its model in vLLM."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        assert isinstance(config, ShowoConfig), "`register` tells transformers which class reads this config"
        self.config = config
        self.showo = ServedLanguage(self.config, vllm_config, f"{prefix}.showo" if prefix else "showo")
        if self.config.w_clip_vit:
            self.mm_projector = projector(self.config)
        self.logits_processor = LogitsProcessor(self.config.vocab_size)
        # Of every position of a prompt or a masked image, at an address that captured graphs may keep.
        longest = max(config.max_position_embeddings, config.max_text_len + config.num_image_tokens + 3)
        cos, sin = rotary_tables(torch.arange(longest), config.rotary_dim, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @property
    def layers(self) -> list[ServedBlock]:
        """The Phi blocks."""
        return cast(list[ServedBlock], list(self.showo.model.layers))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.showo.model.final_layernorm.weight.device

    def embed(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., D]."""
        return self.showo.model.embed_tokens(ids)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """`embed` under the name that vLLM calls."""
        return self.embed(input_ids)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary tables of positions [T]."""
        return cast(Tensor, self.cos)[positions], cast(Tensor, self.sin)[positions]

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The LayerNorm before the head."""
        return self.showo.model.final_layernorm(hidden)

    def code_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [R, D] -> logits over the image codes alone, [R, K]."""
        start = self.config.vocabulary.code_offset
        return self._logits(hidden, slice(start, start + self.config.codebook_size))

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [R, D] -> logits over the whole vocabulary, [R, V]."""
        return self._logits(hidden, slice(0, self.config.vocab_size))

    def _logits(self, hidden: Tensor, ids: slice) -> Tensor:
        head = self.showo.lm_head
        weight, bias = cast(Tensor, head.weight), cast(Tensor, head.bias)
        if head.tp_size > 1:
            # Each process holds a part of the vocabulary; the ids may lie in any of them.
            logits = F.linear(hidden, weight, bias.to(hidden.dtype))
            return tensor_model_parallel_all_gather(logits)[..., ids]
        if ids.start == 0:
            return head.quant_method.apply(head, hidden, bias=bias)[..., ids]
        # Some CPU kernels keep the bias in float32.
        return F.linear(hidden, weight[ids], bias[ids].to(hidden.dtype))

    def project(self, features: Tensor) -> Tensor:
        """CLIP features [..., F] -> embeddings [..., D]."""
        return self.mm_projector(features.to(self.showo.model.final_layernorm.weight))

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: object = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final LayerNorm, [T, D], of a flat batch of tokens."""
        with FORWARD:
            # CLIP features come as embeddings, for they have no ids.
            hidden = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
            cos, sin = self.rotary(served_positions(positions, self.config))
            layers = self.layers
            hidden = run_layers(
                layers, hidden, cos, sin, lambda layer, *qkv: layers[layer].self_attn.attend(*qkv)
            )
            return self.final_norm(hidden)

    def compute_logits(self, hidden: Tensor) -> Tensor | None:
        """Normed hidden states [T, D] -> logits over the whole vocabulary."""
        head = self.showo.lm_head
        FORWARD.decoded(len(hidden))
        with FORWARD:
            return self.logits_processor(head, hidden, head.bias)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Takes a checkpoint's tensors under their official names.

        Raises:
            CheckpointError: names every tensor that the model does not know, and every one it lacks; or one
                that is not finite.
        """
        held = dict(self.named_parameters())
        wanted = {official for name in held for official in official_names(name)}
        found, unknown = set(), []
        for name, tensor in weights:
            if name not in wanted:
                unknown.append(name)
                continue
            found.add(name)
            require_finite(name, tensor, "the weights")
            target, shard = held_name(name)
            load = getattr(held[target], "weight_loader", default_weight_loader)
            load(held[target], tensor, *shard)
        problems = [f"unknown {name}" for name in sorted(unknown)]
        problems += [f"missing {name}" for name in sorted(wanted - found)]
        if problems:
            raise CheckpointError(f"the weights do not fit the served model: {'; '.join(problems)}")
        return set(held)


def held_name(official: str) -> tuple[str, tuple[str, ...]]:
    """The parameter that holds an official tensor, and the shard of it where three share one."""
    for part, shard in SHARDS.items():
        if f".{part}." in official:
            return official.replace(part, "qkv_proj"), (shard,)
    return official, ()


def official_names(held: str) -> list[str]:
    """The official tensors that a parameter holds."""
    return [held.replace("qkv_proj", part) for part in SHARDS] if "qkv_proj" in held else [held]
