"""The Triton kernels of Phi's blocks: in Triton's interpreter, compiled, and on a GPU where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine.kernels import phi

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]
SHAPES = [
    "Show-o",
    "embedded",
    "a table for every row",
    "flat rows",
    "all of a head rotated",
    "no power of two",
    "one head",
]
DTYPES = ["float32", "bfloat16"]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def script(name: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    path = ROOT / "tests" / "support" / name
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    return script("interpreted_phi.py")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*(f"heads, {shape}" for shape in SHAPES), "activation"])
def test_the_kernels_cost_at_most_twice_the_eager_error_and_one_rounding(
    interpreted: dict[str, Any], name: str, dtype: str
) -> None:
    case = interpreted[f"{name}, {dtype}"]
    assert case["types"]
    assert case["errors"]
    for found, eager in zip(case["errors"], case["eager"], strict=True):
        assert found <= 2 * eager + 4 * torch.finfo(getattr(torch, dtype)).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_given_the_same_bits_alone_and_among_others(
    interpreted: dict[str, Any], shape: str, dtype: str
) -> None:
    assert interpreted[f"heads, {shape}, {dtype}"]["alone"]


def test_the_kernels_compile_for_ampere_and_hopper() -> None:
    found = script("compiled_phi.py")
    assert len(found) == 9
    assert all(found.values())


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_the_seam_takes_the_kernels(dtype: torch.dtype) -> None:
    dice = torch.Generator("cuda").manual_seed(0)
    qkv = torch.randn(4, 258, 3, 32, 64, generator=dice, device="cuda").to(dtype)
    angles = 6 * torch.rand(258, 32, generator=dice, device="cuda")
    norms = [nn.LayerNorm(64, device="cuda", dtype=dtype) for _ in range(2)]
    wanted = phi.heads(qkv, *norms, angles.cos(), angles.sin())
    x = qkv.flatten(1)
    with torch.no_grad():
        found = phi.heads(qkv, *norms, angles.cos(), angles.sin())
        activated = phi.tanh_gelu(x.clone())
    assert not found[0].requires_grad
    tolerance = 8 * torch.finfo(dtype).eps
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=4 * tolerance, rtol=tolerance)
    torch.testing.assert_close(activated, F.gelu(x, approximate="tanh"), atol=1e-5, rtol=tolerance)
