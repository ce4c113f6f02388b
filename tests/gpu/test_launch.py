"""What vLLM is started with on a CPU and on a GPU, and what is refused before it starts."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

pytest.importorskip("vllm")

from vllm.config import CompilationConfig, CompilationMode, CUDAGraphMode
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.worker.utils import request_memory

from engine.checkpoints.weights import weight_bytes
from engine.devices import enough_memory
from engine.errors import EngineError
from engine.machine.kv_cache import LEAST, MOST, WORKSPACE
from engine.machine.precision import serving_dtype
from engine.machine.probe import read_machine
from engine.models.showo_config import ShowoConfig
from engine.serving.arguments import (
    BATCH_INVARIANT,
    ENVIRONMENT,
    GIB,
    Card,
    device_arguments,
    environment,
    showo_arguments,
)
from engine.serving.launch import environment_for_children, launched, require_early, stop, translated

RELEASE = ShowoConfig()
WEIGHTS = 3 * GIB
"""The release in bfloat16, about."""
H100 = Card(free=78 * GIB, total=79 * GIB)


def on(card: Card | None, kv_cache_gib: float = 0.0, sequences: int = 256, parts: int = 1) -> dict[str, Any]:
    return showo_arguments(RELEASE, "bfloat16", sequences, kv_cache_gib, WEIGHTS, parts, card)


def test_a_cpu_is_started_as_ever() -> None:
    assert on(None) == {
        "dtype": "bfloat16",
        "enforce_eager": True,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "max_model_len": 2048,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "enable_chunked_prefill": False,
        "enable_prefix_caching": True,
        "block_size": 128,
        "enable_prompt_embeds": False,
        "kv_cache_memory_bytes": 4 * GIB,
        "worker_extension_cls": "engine.serving.worker.HermesWorker",
        "use_tqdm_on_load": False,
        "tensor_parallel_size": 1,
    }
    assert device_arguments(None, 1e9, 1e9) == {"enforce_eager": True}
    for deterministic in (False, True):
        assert environment("cpu", "float32", deterministic) == ENVIRONMENT


def test_a_gpu_gets_decode_graphs_more_tokens_a_step_and_the_memory_it_needs() -> None:
    one, cpu = on(H100), on(None)
    changed = {name for name in {*one, *cpu} if one.get(name) != cpu.get(name)}
    assert changed == {
        "enforce_eager",
        "compilation_config",
        "gpu_memory_utilization",
        "max_num_batched_tokens",
        "kv_cache_memory_bytes",
    }
    assert one["max_num_batched_tokens"] == 8192
    # 256 sequences of 323 tokens, 24 layers of 32 heads with 64 dimensions, in two bytes.
    assert one["kv_cache_memory_bytes"] == 256 * 323 * 2 * 24 * 2048 * 2
    assert one["gpu_memory_utilization"] == pytest.approx((6 + 15.14) / 79, abs=1e-4)
    assert on(H100, kv_cache_gib=2.0)["kv_cache_memory_bytes"] == 2 * GIB


def test_vllm_knows_every_argument_and_compiles_nothing() -> None:
    known = {field.name for field in dataclasses.fields(EngineArgs)}
    assert {*on(H100), *on(None)} <= known
    config = CompilationConfig(**on(H100)["compilation_config"])
    assert config.mode == CompilationMode.NONE
    assert config.cudagraph_mode == CUDAGraphMode.FULL_DECODE_ONLY


gib = st.floats(0.1, 140, allow_nan=False)


@given(gib, gib, st.floats(0.01, 60), st.floats(0, 60), st.integers(1, 512))
def test_what_is_accepted_fits_and_vllm_does_not_refuse_it(
    free: float, used: float, weights: float, kv_cache_gib: float, sequences: int
) -> None:
    card = Card(int(free * GIB), int((free + used) * GIB))
    asked = (RELEASE, "bfloat16", sequences, kv_cache_gib, int(weights * GIB), 1, card)
    needed = 2 * weights + (kv_cache_gib or LEAST) + WORKSPACE
    assume(abs(free - needed) > 0.01)
    if needed > free:
        with pytest.raises(EngineError, match="GiB free, and") as error:
            showo_arguments(*asked)
        assert "\n" not in str(error.value)
        return
    found = showo_arguments(*asked)
    cache = found["kv_cache_memory_bytes"] / GIB
    assert 2 * weights + cache + WORKSPACE <= free + 0.01
    if not kv_cache_gib:
        assert cache >= LEAST
    snapshot = SimpleNamespace(free_memory=card.free, total_memory=card.total, device_="cuda:0")
    asked_for = request_memory(
        snapshot, SimpleNamespace(gpu_memory_utilization=found["gpu_memory_utilization"])
    )
    assert 0 < asked_for <= card.free


def test_a_second_engine_takes_what_the_first_leaves_and_a_third_is_told_what_is_missing() -> None:
    card = Card(free=30 * GIB, total=79 * GIB)
    first = on(card)
    assert first["kv_cache_memory_bytes"] / GIB == pytest.approx(15.14, abs=0.01)
    left = card._replace(free=13 * GIB)
    assert on(left)["kv_cache_memory_bytes"] == 3 * GIB < MOST * GIB
    said = (
        r"the GPU has 5.0 of 79.0 GiB free, and 10.5 are needed \(weights 6.0, keys and values 0.5, computing"
        r" 4.0\); end what else runs there \(`nvidia-smi` lists it\), or lower kv_cache_gib"
    )
    with pytest.raises(EngineError, match=said):
        on(card._replace(free=5 * GIB))
    with pytest.raises(EngineError, match=r"2.0 of 79.0 GiB free, and 5.5 are needed \(weights 0.5"):
        device_arguments(card._replace(free=2 * GIB), 0.5, 1.0)


def test_several_gpus_share_the_weights_and_the_plan() -> None:
    whole, half = on(H100), on(H100, parts=2)
    assert half["kv_cache_memory_bytes"] == whole["kv_cache_memory_bytes"] / 2
    assert half["gpu_memory_utilization"] == pytest.approx(whole["gpu_memory_utilization"] / 2, abs=1e-4)


def test_a_gpus_variables_follow_the_type_and_the_wish_for_the_same_bits() -> None:
    usual = {**ENVIRONMENT, "VLLM_USE_FLASHINFER_SAMPLER": "0"}
    assert environment("cuda", "bfloat16", False) == usual
    assert environment("cuda", "float32", False) == {**usual, "TRITON_F32_DEFAULT": "ieee"}
    assert environment("cuda", "bfloat16", True) == {**usual, BATCH_INVARIANT: "1"}


def test_a_gpu_serves_bfloat16_unless_told_otherwise() -> None:
    cuda = torch.device("cuda")
    assert serving_dtype("auto", cuda) == serving_dtype("default", cuda) == "bfloat16"
    assert serving_dtype("default", torch.device("cpu")) == "float32"
    assert serving_dtype("float32", cuda) == "float32"


def test_the_same_bits_are_refused_where_vllm_has_started_without_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(BATCH_INVARIANT, raising=False)
    with pytest.raises(EngineError, match="open the deterministic engine first, or in a process of its own"):
        require_early(BATCH_INVARIANT)
    monkeypatch.setenv(BATCH_INVARIANT, "1")
    require_early(BATCH_INVARIANT)


def test_what_vllm_pins_for_its_engines_does_not_reach_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_PROTO", "LL")
    # What the mode itself sets, so that the test is undone.
    for name in ("NCCL_NTHREADS", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def build(card: object) -> Any:
        os.environ.update(NCCL_PROTO="Simple", NCCL_NTHREADS="1", CUBLAS_WORKSPACE_CONFIG=":16:8", MINE="1")
        shutdown = SimpleNamespace(shutdown=lambda: None)
        return SimpleNamespace(llm_engine=SimpleNamespace(engine_core=shutdown))

    monkeypatch.setenv("MINE", "0")
    stop(launched(Path("anywhere"), build, "float32"))
    assert os.environ["NCCL_NTHREADS"] == "1"
    found = environment_for_children()
    assert (found["NCCL_PROTO"], found["MINE"]) == ("LL", "1")
    assert not {"NCCL_NTHREADS", "CUBLAS_WORKSPACE_CONFIG"} & set(found)


def test_a_vllm_for_another_device_than_torch_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(
        EngineError, match="torch computes on cuda, and vLLM is built for cpu; run `make setup`"
    ):
        launched(tmp_path, lambda card: pytest.fail("started"), "bfloat16")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of\nmore"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronous"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
@pytest.mark.parametrize("block", [translated, enough_memory])
def test_however_a_gpus_memory_ends_it_is_one_line_of_what_to_do(error: Exception, block: Any) -> None:
    with pytest.raises(EngineError) as caught, block("generating images failed"):
        raise error
    said = str(caught.value)
    assert said.startswith(
        f"generating images failed: the device's memory ran out ({str(error).splitlines()[0][:20]}"
    )
    assert "nvidia-smi" in said
    assert "\n" not in said


def test_a_bug_stays_a_bug() -> None:
    with (
        pytest.raises(RuntimeError, match="illegal memory access"),
        enough_memory("generating images failed"),
    ):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_a_gpu_that_others_fill_counts_as_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def free(index: int) -> tuple[int, int]:
        if index:
            raise torch.AcceleratorError("CUDA error: out of memory\nmore")
        return GIB, 2 * GIB

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    assert read_machine().gpus == (GIB, 0)


def test_weights_are_counted_in_the_type_that_serves_them(tiny: dict[str, Path]) -> None:
    single, half = (weight_bytes(tiny["codes"], dtype) for dtype in ("float32", "bfloat16"))
    assert single == 2 * half
    stored = (tiny["codes"] / "model.safetensors").stat().st_size
    assert 0.8 * stored < single < stored
