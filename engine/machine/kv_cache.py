"""How much memory the engine's keys and values get where the user does not say."""

from __future__ import annotations

import torch

from engine.models.showo_config import ShowoConfig

LEAST, MOST = 0.5, 4.0
"""GiB between which the plan stays on a CPU, unless a single sequence needs more."""
WORKSPACE = 4.0
"""GiB of a GPU for what is neither weights nor keys and values: activations, captured graphs, painting. An
estimate."""
TEXT_TOKENS = 64
"""Tokens after the image that a sequence is planned for."""
PAGED_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""The head sizes of vLLM's paged attention on a CPU; on a GPU all from the least are taken as they are."""


def paged_head(head: int, device: str = "cpu") -> int:
    """The size that heads of `head` dimensions are padded to; their own where no size is large enough."""
    if device != "cpu":
        return max(head, PAGED_HEADS[0])
    return min((size for size in PAGED_HEADS if size >= head), default=head)


def token_bytes(config: ShowoConfig, dtype: str, head: int) -> int:
    """Bytes of one token's keys and values in all layers, heads taking `head` dimensions each."""
    width = config.num_attention_heads * head
    return 2 * config.num_hidden_layers * width * getattr(torch, dtype).itemsize


def planned_gib(
    config: ShowoConfig,
    dtype: str,
    max_sequences: int,
    head: int,
    tensor_parallel: int = 1,
    most: float = MOST,
) -> float:
    """GiB of each process for `max_sequences` captions in flight, and always for the longest sequence.

    At most `most`, which on a GPU is `gpu_room`.
    """
    of_token = token_bytes(config, dtype, head) / tensor_parallel / 2**30
    wanted = max_sequences * (config.prefix_length + TEXT_TOKENS) * of_token
    return max(LEAST, min(wanted, most), least_gib(config, dtype, head, tensor_parallel))


def least_gib(config: ShowoConfig, dtype: str, head: int, tensor_parallel: int = 1) -> float:
    """GiB of each process for the longest sequence alone.

    An eighth more than that needs: vLLM counts in whole blocks and keeps one aside.
    """
    of_token = token_bytes(config, dtype, head) / tensor_parallel / 2**30
    return 1.125 * config.max_position_embeddings * of_token


def gpu_room(free: float, weights: float) -> float:
    """GiB of a GPU that keys and values may take, beside weights that a swap holds twice; all in GiB."""
    return free - 2 * weights - WORKSPACE


def branched_gib(config: ShowoConfig, dtype: str, max_sequences: int, tensor_parallel: int = 1) -> float:
    """GiB of each process that the branched sampler's own keys and values may take, beside `planned_gib`."""
    of_token = token_bytes(config, dtype, config.head_dim) / tensor_parallel / 2**30
    return min(MOST, max_sequences * (config.prefix_length + TEXT_TOKENS) * of_token)
