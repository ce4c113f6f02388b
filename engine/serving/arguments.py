"""What vLLM is started with, by device, model and settings; starts nothing.

A CPU computes eagerly. On a GPU the steps that only decode are replayed as CUDA graphs. Steps with prompts
are eager, because no graph can hold their image prefixes. Nothing is compiled.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from engine.errors import EngineError
from engine.machine.kv_cache import MOST, WORKSPACE, block_size, gpu_room, paged_head, planned_gib
from engine.models.showo_config import ShowoConfig

GIB = 2**30
ENVIRONMENT = {
    # One process: the worker extension shares our memory, and two cores have no room for a second one.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # At WARNING, each start prints a traceback about a chat template that a token-level engine lacks.
    "VLLM_LOGGING_LEVEL": "ERROR",
    # vLLM logs to stdout, which belongs to our commands.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}
BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
"""vLLM's variable for kernels whose results do not depend on what else is in the batch."""
TOKENS = {"cpu": 2048, "cuda": 8192}
"""Tokens of a step, unless the longest sequence has more."""


class Card(NamedTuple):
    """A GPU's memory in bytes."""

    free: int
    total: int


def environment(device: str, dtype: str, deterministic: bool) -> dict[str, str]:
    """Variables that vLLM must find when it is imported."""
    if device == "cpu":
        return ENVIRONMENT
    found = {
        **ENVIRONMENT,
        # Its kernels would be compiled at the first start.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
    }
    if dtype == "float32":
        # By default Triton rounds the factors of float32 products to ten bits.
        found["TRITON_F32_DEFAULT"] = "ieee"
    if deterministic:
        found[BATCH_INVARIANT] = "1"
    return found


def showo_arguments(
    config: ShowoConfig,
    dtype: str,
    max_sequences: int,
    kv_cache_gib: float,
    weights: int,
    tensor_parallel: int = 1,
    card: Card | None = None,
) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for a Show-o model with `weights` bytes of weights.

    A `kv_cache_gib` of 0 is planned. `card` is the GPU with the least room, None on a CPU.

    Raises:
        EngineError: the GPU has too little free memory.
    """
    device, held = "cpu" if card is None else "cuda", weights / tensor_parallel / GIB
    head = paged_head(config.head_dim, device)
    most = MOST if card is None else gpu_room(card.free / GIB, held)
    cache = kv_cache_gib or planned_gib(config, dtype, max_sequences, head, tensor_parallel, most)
    return {
        "dtype": dtype,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "max_model_len": config.max_position_embeddings,
        "max_num_seqs": max_sequences,
        "max_num_batched_tokens": max(TOKENS[device], config.max_position_embeddings),
        # A cut inside the bidirectional image prefix would change its attention.
        "enable_chunked_prefill": False,
        "enable_prefix_caching": True,
        "block_size": block_size(config.prefix_length),
        "enable_prompt_embeds": config.w_clip_vit,
        "kv_cache_memory_bytes": int(cache * GIB),
        "worker_extension_cls": "engine.serving.worker.HermesWorker",
        "use_tqdm_on_load": False,
        "tensor_parallel_size": tensor_parallel,
        # Twice, for a swap.
        **device_arguments(card, 2 * held, cache),
    }


def device_arguments(card: Card | None, weights: float, cache: float) -> dict[str, Any]:
    """What any model is started with on a device, `weights` and `cache` (keys and values) in GiB.

    Raises:
        EngineError: the GPU has too little free memory.
    """
    if card is None:
        return {"enforce_eager": True}
    needed, free, total = weights + cache + WORKSPACE, card.free / GIB, card.total / GIB
    if round(needed - free, 3) > 0:
        raise EngineError(
            f"the GPU has {free:.1f} of {total:.1f} GiB free, and {needed:.1f} are needed (weights"
            f" {weights:.1f}, keys and values {cache:.1f}, computing {WORKSPACE:.1f}); end what else runs"
            " there (`nvidia-smi` lists it), or lower kv_cache_gib"
        )
    # vLLM refuses to start where less than this part of the GPU is free, and would ask for nine tenths of it.
    fraction = max(1e-4, math.floor(1e4 * (weights + cache) / total) / 1e4)
    return {
        "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"},
        "gpu_memory_utilization": fraction,
    }
