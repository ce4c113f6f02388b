"""Runs vLLM's Triton attention on batches through our builder, interpreted; prints what it found, as JSON.

The arguments are checkpoints, whose sizes decide. For each there are the largest differences from attention
under a dense mask, batch by batch, those of plain causal attention, and what a graph would capture.

Legend: R requests, T query tokens, L tokens of a sequence, H heads, E head dimension.
"""

from __future__ import annotations

import interpreted_triton  # noqa: F401, isort: skip

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.ops.triton_unified_attention import unified_attention
from vllm.v1.kv_cache_interface import FullAttentionSpec

from engine.checkpoints.weights import load_config
from engine.serving.arguments import showo_arguments
from engine.serving.attention import TritonPrefixBackend, TritonPrefixBuilder, paged_head_size
from engine.serving.plugin import register

Batch = Sequence[tuple[int, int]]
"""Of each request its tokens and how many of them are cached."""
BLOCKS = 24


def batches(prefix: int) -> dict[str, Batch]:
    """Every kind of request, alone and among others; (0, 0) fills a batch up."""
    whole, half, tail = (prefix + 9, 0), (prefix + 12, 16), (prefix + 5, prefix - 1)
    decodes, bare, warm = (prefix + 17, prefix + 16), (prefix + 1, 0), (2, 0)
    return {
        "whole prompts": [whole, bare],
        "cached up to inside the prefix": [half, tail],
        "among decoding ones": [decodes, whole, (prefix + 30, prefix + 29), tail],
        "filled up": [decodes, half, (0, 0), (0, 0)],
        "warm-up": [warm, warm, warm],
        "warm-up among others": [warm, whole],
        "decoding": [decodes, (prefix + 2, prefix + 1), (0, 0)],
    }


def common(batch: Batch, block: int, generator: torch.Generator) -> CommonAttentionMetadata:
    """What vLLM hands a builder; blocks are dealt out at random."""
    queries = [length - cached for length, cached in batch]
    start = torch.tensor([0, *queries]).cumsum(0).int()
    lengths = torch.tensor([length for length, _ in batch], dtype=torch.int32)
    dealt = torch.randperm(BLOCKS - 1, generator=generator) + 1
    table = torch.zeros(len(batch), 8, dtype=torch.int32)
    for row, (length, _) in enumerate(batch):
        count = -(-length // block)
        table[row, :count], dealt = dealt[:count].int(), dealt[count:]
    return CommonAttentionMetadata(
        query_start_loc=start,
        query_start_loc_cpu=start,
        seq_lens=lengths,
        # Upper bounds where a request decodes.
        seq_lens_cpu_upper_bound=lengths + torch.tensor([one == 1 for one in queries]),
        num_reqs=len(batch),
        num_actual_tokens=int(start[-1]),
        max_query_len=max(queries),
        max_seq_len=int(lengths.max()),
        block_table_tensor=table,
        slot_mapping=torch.zeros(int(start[-1]), dtype=torch.int64),
    )


def dense(q_THE: Tensor, cache: tuple[Tensor, Tensor], given: CommonAttentionMetadata, config: Any) -> Tensor:
    """The same attention from its definition, a request at a time."""
    found = []
    for row, length in enumerate(given.seq_lens.tolist()):
        q = q_THE[given.query_start_loc[row] : given.query_start_loc[row + 1]]
        k_LHE, v_LHE = (x[given.block_table_tensor[row].long()].flatten(0, 1)[:length] for x in cache)
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        if length >= config.prefix_length:
            mask[: config.prefix_queries, : config.prefix_length] = True
        scores = torch.einsum("the,lhe->htl", q, k_LHE) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~mask[length - len(q) :], -math.inf).softmax(-1)
        found.append(torch.einsum("htl,lhe->the", weights, v_LHE))
    return torch.cat(found)


def paged(q_THE: Tensor, cache: tuple[Tensor, Tensor], metadata: Any, **other: Any) -> Tensor:
    """vLLM's kernel, called as its backend does."""
    out = torch.full_like(q_THE, math.nan)
    given = {
        "cu_seqlens_q": metadata.query_start_loc,
        "seqused_k": metadata.seq_lens,
        "block_table": metadata.block_table,
        "causal": metadata.causal,
    }
    unified_attention(
        q=q_THE,
        k=cache[0],
        v=cache[1],
        out=out,
        max_seqlen_q=metadata.max_query_len,
        max_seqlen_k=metadata.max_seq_len,
        softmax_scale=q_THE.shape[-1] ** -0.5,
        window_size=(-1, -1),
        softcap=0,
        q_descale=None,
        k_descale=None,
        v_descale=None,
        seq_threshold_3D=metadata.seq_threshold_3D,
        num_par_softmax_segments=metadata.num_par_softmax_segments,
        softmax_segm_output=metadata.softmax_segm_output,
        softmax_segm_max=metadata.softmax_segm_max,
        softmax_segm_expsum=metadata.softmax_segm_expsum,
        **(given | other),
    )
    return out


def case(checkpoint: Path, block: int) -> dict[str, Any]:
    config = load_config(checkpoint)
    arguments = showo_arguments(config, "float32", 8, 0.1, 0) | {"block_size": block}
    vllm_config = EngineArgs(str(checkpoint), **arguments).create_engine_config()
    size, heads = paged_head_size(TritonPrefixBackend, config.head_dim), config.num_attention_heads
    spec = FullAttentionSpec(block_size=block, num_kv_heads=heads, head_size=size, dtype=torch.float32)
    builder = TritonPrefixBuilder(spec, [], vllm_config, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    stored = torch.randn(BLOCKS, heads, block, 2 * size, generator=generator).transpose(1, 2)
    cache = (stored[..., :size], stored[..., size:])
    errors, causal = {}, {}
    for name, batch in batches(config.prefix_length).items():
        given = common(batch, block, generator)
        q_THE = torch.randn(given.num_actual_tokens, heads, size, generator=generator)
        wanted = dense(q_THE, cache, given, config)
        metadata = builder.build(0, given)
        errors[name] = float((paged(q_THE, cache, metadata) - wanted).abs().max())
        plain = {
            "cu_seqlens_q": given.query_start_loc,
            "seqused_k": given.seq_lens,
            "block_table": given.block_table_tensor,
        }
        causal[name] = float((paged(q_THE, cache, metadata, **plain, causal=True) - wanted).abs().max())
    capture = common([(1, 0)] * 4, block, generator)
    held = builder.build_for_cudagraph_capture(capture)
    return {
        "errors": errors,
        "causal": causal,
        "captured": held.causal is True and held.seq_lens.data_ptr() == capture.seq_lens.data_ptr(),
        "head": builder.softmax_segm_output.shape[-1],
        "graphs": TritonPrefixBuilder.get_cudagraph_support(vllm_config, spec).name,
    }


if __name__ == "__main__":
    register()
    sizes = [(Path(folder), block) for folder in sys.argv[1:] for block in (32, 96)]
    print(json.dumps({f"{folder.name} {block}": case(folder, block) for folder, block in sizes}))
