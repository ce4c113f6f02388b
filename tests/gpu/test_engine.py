"""Whole engines on vLLM's Triton attention, interpreted, under both model runners, against the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
pytest.importorskip("triton")

from engine_outputs import outputs

RUNNERS = {"v1": "vllm.v1.worker.gpu_model_runner", "v2": "vllm.v1.worker.gpu.model_runner"}


@pytest.fixture(scope="module")
def wanted(tiny: dict[str, Path]) -> dict[str, Any]:
    """What the CPU's attention gives, without a warm-up."""
    return {name: outputs(folder, lambda _: {}) for name, folder in tiny.items()}


@pytest.fixture(scope="module")
def found(tiny: dict[str, Path], interpreted: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """By runner and variant."""
    return interpreted("interpreted_engine.py", *tiny.values())


variants = pytest.mark.parametrize("variant", ["codes", "features"])
runners = pytest.mark.parametrize("runner", RUNNERS)


@variants
@runners
def test_an_engine_that_warmed_up_as_on_a_gpu_gives_what_a_cpus_does(
    found: dict[str, Any], wanted: dict[str, Any], runner: str, variant: str
) -> None:
    one, other = found[runner][variant], wanted[variant]
    assert (one["runner"], one["backend"]) == (RUNNERS[runner], "TritonPrefixBackend")
    assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)
    assert one["greedy"] == other["greedy"]
    assert one["logprobs"] == pytest.approx(other["logprobs"], abs=1e-4)
    assert one["cached"] == other["cached"] > 0
    assert one["rows"] == one["tokens"]


@variants
@runners
def test_a_seed_decides_a_caption_whatever_else_is_in_flight(
    found: dict[str, Any], runner: str, variant: str
) -> None:
    one = found[runner][variant]
    assert one["again"] == one["sampled"][:2] != one["other"]


@variants
def test_the_older_runner_draws_as_the_cpus_does(
    found: dict[str, Any], wanted: dict[str, Any], variant: str
) -> None:
    assert found["v1"][variant]["sampled"] == wanted[variant]["sampled"]


@variants
def test_a_capture_of_decoding_requests_stays_as_vllm_made_it(found: dict[str, Any], variant: str) -> None:
    assert found["v2"][variant]["captured"] == [True, [1, 1], True]


@variants
@runners
def test_timed_as_whole_steps_forward_passes_stay_a_part_of_the_calls(
    found: dict[str, Any], runner: str, variant: str
) -> None:
    assert 0 < found[runner][variant]["forward_share"] < 1


@variants
@runners
def test_no_attention_of_pytorchs_is_planned_by_its_batch(
    found: dict[str, Any], runner: str, variant: str
) -> None:
    assert not found[runner][variant]["planned by batch"]
