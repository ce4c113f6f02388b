"""The Triton kernels of the log-probs: in Triton's interpreter, and on a GPU where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from logps_problem import Problem, error, exact, problem, run

from train.logps.dispatch import token_logps
from train.logps.head import Head, eager_logps

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, list[float]]]:
    script = ROOT / "tests" / "support" / "interpreted_logps.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "name",
    [
        "float32",
        "float32 without bias",
        "bfloat16",
        "bfloat16 without bias",
        "one token",
        "several chunks",
    ],
)
def test_the_kernels_cost_at_most_twice_the_eager_error_and_one_rounding(
    interpreted: dict[str, dict[str, list[float]]], name: str
) -> None:
    case = interpreted[name]
    assert case["types"]
    assert case["zeros"]
    assert len(case["errors"]) >= 3
    for found, eager, slack in zip(case["errors"], case["eager"], case["slack"], strict=True):
        assert found <= 2 * eager + slack


def test_no_tokens_give_zero_gradients_from_the_kernels(
    interpreted: dict[str, dict[str, list[float]]],
) -> None:
    assert interpreted["no tokens"]["zeros"]
    assert interpreted["no tokens"]["errors"] == []


def on_gpu(values: Problem) -> Problem:
    leaves = [one.detach().cuda().requires_grad_() for one in values.leaves]
    return Problem(leaves[0], Head(*leaves[1:]), values.targets.cuda(), values.upstream.cuda())


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(300, 5001, 256), (1, 130, 40), (1030, 58498, 200)])
def test_on_a_gpu_the_kernels_cost_at_most_twice_the_eager_error_and_one_rounding(
    dtype: torch.dtype, bias: bool, size: tuple[int, int, int]
) -> None:
    tokens, vocabulary, width = size
    values = on_gpu(problem(tokens, vocabulary, dtype, bias=bias, width=width, scale=0.3))
    fused, eager = run(token_logps, values), run(eager_logps, values)
    for found, twin, wanted in zip(fused, eager, exact(values), strict=True):
        assert found.dtype == twin.dtype
        assert error(found, wanted) <= 2 * error(twin, wanted) + 4 * torch.finfo(found.dtype).eps


@gpu
def test_on_a_gpu_two_runs_give_the_same_bits() -> None:
    values = on_gpu(problem(500, 9001, torch.bfloat16, width=128))
    for first, second in zip(run(token_logps, values), run(token_logps, values), strict=True):
        assert torch.equal(first, second)


@gpu
def test_on_a_gpu_no_tokens_by_vocabulary_matrix_is_alive_between_the_passes() -> None:
    values = on_gpu(problem(2000, 50000, torch.bfloat16, width=64))
    token_logps(values.hidden, values.head, values.targets)
    before = torch.cuda.memory_allocated()
    logp = token_logps(values.hidden, values.head, values.targets)
    assert torch.cuda.memory_allocated() - before < 2000 * 50000 // 20
    assert logp.requires_grad
