"""Image prefixes on vLLM's Triton attention: the rows of a batch, and what the kernel makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CheckpointError, EngineError
from engine.models.showo_config import ShowoConfig

pytest.importorskip("vllm")
pytest.importorskip("triton")

from vllm.config import CompilationConfig, CUDAGraphMode
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.attention.backend import AttentionCGSupport, CommonAttentionMetadata
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.kv_cache_interface import FullAttentionSpec

from engine.serving.attention import (
    CpuPrefixBackend,
    TritonPrefixBackend,
    TritonPrefixBuilder,
    paged_head_size,
    prefix_backend,
    split_prefix,
)
from engine.serving.plugin import register

CAUSAL_ALONE = {"warm-up", "decoding"}
"""Batches without a query inside an image."""


@pytest.fixture(scope="module")
def kernel(tiny: dict[str, Path], interpreted: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return interpreted("interpreted_attention.py", *tiny.values())


@pytest.mark.parametrize("block", [32, 96])
@pytest.mark.parametrize("variant", ["codes", "features"])
def test_the_kernel_agrees_with_a_dense_mask_for_every_kind_of_batch(
    kernel: dict[str, Any], variant: str, block: int
) -> None:
    case = kernel[f"{variant} {block}"]
    assert len(case["errors"]) == 7
    for name, error in case["errors"].items():
        assert error < 2e-6, name
        assert (case["causal"][name] < 2e-6) == (name in CAUSAL_ALONE), name


@pytest.mark.parametrize("variant", ["codes", "features"])
def test_a_capture_stays_causal_and_keeps_vllms_addresses(kernel: dict[str, Any], variant: str) -> None:
    assert kernel[f"{variant} 32"]["captured"]


@pytest.mark.parametrize("variant", ["codes", "features"])
def test_partial_sums_of_decoding_have_room_for_padded_heads(kernel: dict[str, Any], variant: str) -> None:
    assert kernel[f"{variant} 32"]["head"] == 32


@pytest.mark.parametrize("asked", ["FULL", "FULL_AND_PIECEWISE", "FULL_DECODE_ONLY"])
def test_vllm_captures_decoding_alone(kernel: dict[str, Any], asked: str) -> None:
    config = CompilationConfig(mode=0, cudagraph_mode=asked)
    found = config.resolve_cudagraph_mode_and_sizes(
        AttentionCGSupport[kernel["codes 32"]["graphs"]], "ours", piecewise_capture_available=False
    )
    assert found == CUDAGraphMode.FULL_DECODE_ONLY


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Prefix, tokens that see all of it; of each request its tokens, cached ones, and a bound's excess."""
    prefix = draw(st.integers(2, 12))
    found = []
    for _ in range(draw(st.integers(1, 5))):
        length = draw(st.integers(0, 24))
        # A prompt shorter than the prefix is vLLM's own and begins at its start.
        cached = draw(st.integers(0, length)) if length >= prefix else 0
        decodes = length - cached == 1 and cached >= prefix
        found.append((length, cached, draw(st.integers(0, 3)) if decodes else 0))
    return prefix, draw(st.integers(1, prefix)), found


@given(batches())
def test_the_rows_of_any_batch_see_what_the_definition_says(
    asked: tuple[int, int, list[tuple[int, int, int]]],
) -> None:
    prefix, seeing, batch = asked
    start = torch.tensor([0, *(length - cached for length, cached, _ in batch)]).cumsum(0).int()
    bounds = torch.tensor([length + excess for length, _, excess in batch], dtype=torch.int32)
    # Of every query its request and how many tokens it sees.
    wanted = [
        (number, max(place + 1, prefix if place < seeing and length >= prefix else 0))
        for number, (length, cached, _) in enumerate(batch)
        for place in range(cached, length)
    ]
    rows = split_prefix(start, bounds, prefix, seeing)
    if rows is None:
        causal = [
            (number, place + 1) for number, (end, at, _) in enumerate(batch) for place in range(at, end)
        ]
        assert wanted == causal
        return
    found = []
    counts = (rows.query_start[1:] - rows.query_start[:-1]).tolist()
    of_rows = (counts, rows.request.tolist(), rows.causal.tolist(), rows.seq_lens.tolist())
    for count, request, causal, bound in zip(*of_rows, strict=True):
        length, _, excess = batch[request]
        assert bound == (length + excess if causal else prefix)
        found += [(request, length - count + i + 1 if causal else prefix) for i in range(count)]
    assert found == wanted
    assert min(counts) > 0


def test_no_step_waits_for_the_device(tiny: dict[str, Path]) -> None:
    """Tensors without values stand for those of a device: to ask for one is an error."""
    register()
    given = EngineArgs(str(tiny["codes"]), enable_chunked_prefill=False).create_engine_config()
    device, spec = (
        torch.device("meta"),
        FullAttentionSpec(block_size=32, num_kv_heads=1, head_size=32, dtype=torch.float32),
    )
    start, lengths = torch.tensor([0, 50, 51], dtype=torch.int32), torch.tensor([50, 60], dtype=torch.int32)
    common = CommonAttentionMetadata(
        query_start_loc=start.to(device),
        query_start_loc_cpu=start,
        seq_lens=lengths.to(device),
        seq_lens_cpu_upper_bound=lengths,
        num_reqs=2,
        num_actual_tokens=51,
        max_query_len=50,
        max_seq_len=60,
        block_table_tensor=torch.zeros(2, 2, dtype=torch.int32, device=device),
        slot_mapping=torch.zeros(51, dtype=torch.int64, device=device),
    )
    found = TritonPrefixBuilder(spec, [], given, device).build(0, common)
    kept = (found.query_start_loc, found.seq_lens, found.block_table, found.causal)
    assert {one.device.type for one in kept} == {"meta"}
    assert [one.shape[0] for one in kept] == [4, 3, 3, 3]
    assert [one.dtype for one in kept] == [torch.int32, torch.int32, torch.int32, torch.bool]


def vllm_config(device: str, backend: str | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """As much of vLLM's configuration as decides on a backend."""
    return SimpleNamespace(
        attention_config=SimpleNamespace(backend=backend and AttentionBackendEnum[backend]),
        device_config=SimpleNamespace(device_type=device),
        model_config=SimpleNamespace(dtype=dtype),
    )


def test_the_device_names_the_backend_and_vllms_own_setting_overrules_it() -> None:
    assert prefix_backend(vllm_config("cpu")) is CpuPrefixBackend
    assert prefix_backend(vllm_config("cuda", dtype=torch.bfloat16)) is TritonPrefixBackend
    assert prefix_backend(vllm_config("cpu", "TRITON_ATTN")) is TritonPrefixBackend


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (vllm_config("xpu"), "no attention over image prefixes on xpu; there is CPU_ATTN and TRITON_ATTN"),
        (vllm_config("cuda", "FLASH_ATTN"), "no attention over image prefixes on FLASH_ATTN; there is"),
        (vllm_config("cuda", dtype=torch.float64), "TRITON_ATTN does not take torch.float64; set"),
    ],
)
def test_other_backends_and_types_are_refused_in_a_line(config: Any, said: str) -> None:
    with pytest.raises(EngineError, match=said) as error:
        prefix_backend(config)
    assert "\n" not in str(error.value)


def test_triton_pads_no_head_that_it_takes_and_none_is_too_large_without_a_word() -> None:
    assert paged_head_size(TritonPrefixBackend, ShowoConfig().head_dim) == 64
    assert [paged_head_size(TritonPrefixBackend, size) for size in (8, 32, 72)] == [32, 32, 72]
    assert [paged_head_size(CpuPrefixBackend, size) for size in (8, 32, 72)] == [32, 32, 80]
    with pytest.raises(CheckpointError, match="heads of 513 dimensions are more than vLLM's TRITON_ATTN"):
        paged_head_size(TritonPrefixBackend, 513)
