"""How much memory keys and values get where the user does not say.

The sampler that serves has the cache: vLLM's paged one, or the branched sampler's own. Beside the latter,
vLLM's holds only the probes after a swap, and is as small as vLLM lets it be.
"""

from __future__ import annotations

import torch

from engine.models.showo_config import ShowoConfig

LEAST, MOST = 0.5, 4.0
"""GiB between which the plan of vLLM's cache stays on a CPU, unless a single sequence needs more. The second
bounds the branched sampler's too."""
WORKSPACE = 4.0
"""GiB of a GPU for what is neither weights nor keys and values: activations, captured graphs, images being
sampled. An estimate."""
TEXT_TOKENS = 64
"""Tokens after the image that a sequence is planned for."""
PAGED_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""The head sizes of vLLM's paged attention on a CPU; on a GPU all from the least are taken as they are."""


def paged_head(head: int, device: str = "cpu") -> int:
    """The size that heads of `head` dimensions are padded to; their own where no size is large enough."""
    if device != "cpu":
        return max(head, PAGED_HEADS[0])
    return min((size for size in PAGED_HEADS if size >= head), default=head)


def block_size(prefix: int) -> int:
    """The KV block size, a multiple of 32 for the CPU kernel: the largest that caches most of the prefix.

    Only whole blocks are cached: blocks of 128, vLLM's default, would never hold a prefix of 39 tokens.
    """
    reachable = prefix // 32 * 32
    return next((size for size in (128, 96, 64) if reachable and prefix // size * size == reachable), 32)


def token_bytes(config: ShowoConfig, dtype: str, head: int) -> int:
    """Bytes of one token's keys and values in all layers, heads taking `head` dimensions each."""
    width = config.num_attention_heads * head
    kind: torch.dtype = getattr(torch, dtype)
    return 2 * config.num_hidden_layers * width * kind.itemsize


def planned_gib(
    config: ShowoConfig,
    dtype: str,
    max_sequences: int,
    head: int,
    tensor_parallel: int = 1,
    most: float = MOST,
) -> float:
    """GiB of each process for `max_sequences` captions by vLLM, and always for the longest sequence.

    At most `most`, which on a GPU is `gpu_room`.
    """
    wanted = _in_flight(config, dtype, max_sequences, head) / tensor_parallel
    return max(LEAST, min(wanted, most), least_gib(config, dtype, head, tensor_parallel))


def least_gib(config: ShowoConfig, dtype: str, head: int, tensor_parallel: int = 1) -> float:
    """GiB of each process with which vLLM starts and serves the longest sequence alone."""
    size = block_size(config.prefix_length)
    # vLLM counts in whole blocks and keeps one aside.
    blocks = -(-config.max_position_embeddings // size) + 1
    return blocks * size * token_bytes(config, dtype, head) / tensor_parallel / 2**30


def branched_gib(config: ShowoConfig, dtype: str, max_sequences: int, tensor_parallel: int = 1) -> float:
    """GiB of each process for `max_sequences` captions by the branched sampler, and for the longest one."""
    wanted = _in_flight(config, dtype, max_sequences, config.head_dim) / tensor_parallel
    return max(min(wanted, MOST), least_branched_gib(config, dtype, tensor_parallel))


def least_branched_gib(config: ShowoConfig, dtype: str, tensor_parallel: int = 1) -> float:
    """GiB of each process for the longest sequence alone."""
    of_token = token_bytes(config, dtype, config.head_dim) / tensor_parallel / 2**30
    return config.max_position_embeddings * of_token


def gpu_room(free: float, weights: float) -> float:
    """GiB of a GPU that keys and values may take, beside weights that a swap holds twice; all in GiB."""
    return free - 2 * weights - WORKSPACE


def _in_flight(config: ShowoConfig, dtype: str, max_sequences: int, head: int) -> float:
    """GiB of so many images with a text each."""
    tokens = max_sequences * (config.prefix_length + TEXT_TOKENS)
    return tokens * token_bytes(config, dtype, head) / 2**30
