"""Runs whole engines on vLLM's Triton attention, interpreted; prints what they gave, as JSON.

The arguments are checkpoints; each is served under both of vLLM's model runners. Before an engine is asked
anything it goes through what vLLM does on a GPU between loading and serving, but for the grammar masks, which
the interpreter cannot run.
"""

from __future__ import annotations

import interpreted_triton  # noqa: F401, isort: skip

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import vllm
from engine_outputs import outputs
from vllm.config import CUDAGraphMode
from vllm.model_executor.warmup.attention_warmup import mixed_batch_attention_warmup
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.warmup import warmup_kernels

LONG = 50
"""Tokens of a warm-up that are more than an image's."""


def started(worker: Any) -> dict[str, Any]:
    """Warms up as on a GPU, and has steps timed as there; says what runs and what a graph would hold."""
    runner, newer = worker.model_runner, os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "1"
    if newer:
        vllm.SamplingParams.for_sampler_warmup = lambda: vllm.SamplingParams(temperature=0.0, max_tokens=4)
        warmup_kernels(runner, worker.execute_model, lambda _: worker.sample_tokens(None))
    worker.use_v2_model_runner = newer
    for tokens in (16, LONG):
        mixed_batch_attention_warmup(worker, tokens)
    worker.hermes_use_gpu()
    return {
        "runner": type(runner).__mro__[1].__module__,
        "backend": runner.attn_groups[0][0].backend.__name__,
        "captured": captured(runner) if newer else None,
        "planned by batch": torch.backends.cuda.cudnn_sdp_enabled(),
    }


def captured(runner: Any) -> list[Any]:
    """Causality, lengths, and whether the addresses are vLLM's own, of a capture of two decoding requests."""
    batch = InputBatch.make_dummy(2, 2, runner.input_buffers)
    tables, slots = runner.prepare_dummy_attn(batch)
    groups = (runner.attn_groups, runner.kv_cache_config)
    state = runner.model_state
    found = state.prepare_attn(batch, CUDAGraphMode.FULL, tables, slots, *groups, for_capture=True)
    metadata = next(iter(found.values()))
    kept = metadata.seq_lens.data_ptr() == runner.input_buffers.seq_lens.data_ptr()
    return [metadata.causal, metadata.seq_lens.tolist(), kept]


if __name__ == "__main__":
    vllm.LLM = partial(vllm.LLM, attention_config={"backend": "TRITON_ATTN"})
    found: dict[str, dict[str, Any]] = {}
    for name, newer in (("v1", "0"), ("v2", "1")):
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = newer
        vllm.envs.disable_envs_cache()
        found[name] = {Path(folder).name: outputs(Path(folder), started) for folder in sys.argv[1:]}
    print(json.dumps(found))
