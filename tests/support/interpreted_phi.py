"""Runs the Triton kernels of Phi's blocks in Triton's interpreter; prints their errors by case, as JSON.

A script, for the interpreter must be switched on before anything imports Triton.
"""

from __future__ import annotations

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.kernels import phi, phi_triton

HEADS = {
    "Show-o": ((2, 9), (9,), 32, 64, 32),
    "embedded": ((3, 7), (7,), 5, 32, 16),
    "a table for every row": ((2, 5), (2, 5), 3, 32, 16),
    "flat rows": ((6,), (6,), 4, 64, 32),
    "all of a head rotated": ((2, 4), (4,), 2, 32, 32),
    "no power of two": ((2, 4), (4,), 3, 80, 24),
    "one head": ((1, 1), (1,), 1, 16, 8),
}
"""Rows, rows of the tables, heads, their size, rotated dimensions."""


def numbers(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm(size: int, seed: int, dtype: torch.dtype) -> nn.LayerNorm:
    made = nn.LayerNorm(size, dtype=dtype)
    made.weight.data, made.bias.data = (numbers(size, seed=seed + i, dtype=dtype) for i in range(2))
    return made


def error(found: Tensor, exact: Tensor) -> float:
    return float(((found.double() - exact).abs().max() / exact.abs().max()).detach())


def heads(name: str, dtype: torch.dtype) -> dict[str, list[float] | bool]:
    rows, tables, count, size, rotary = HEADS[name]
    qkv = numbers(*rows, 3, count, size, seed=0, dtype=dtype)
    norms = norm(size, 1, dtype), norm(size, 3, dtype)
    angles = 6 * torch.rand(*tables, rotary, generator=torch.Generator().manual_seed(5))
    cos, sin = angles.cos(), angles.sin()
    wide = [nn.LayerNorm(size, dtype=torch.float64) for _ in norms]
    for one, other in zip(wide, norms, strict=True):
        one.load_state_dict(other.state_dict())
    exact = phi.heads(qkv.double(), wide[0], wide[1], cos.double(), sin.double())[:2]
    # With gradients: the eager twin.
    eager = phi.heads(qkv, *norms, cos, sin)[:2]
    with torch.no_grad():
        found = phi_triton.heads(qkv, *norms, cos, sin)
        first = (qkv[..., :1, :, :, :], cos[..., :1, :], sin[..., :1, :])
        few, few_cos, few_sin = (one.contiguous() for one in first)
        part = phi_triton.heads(few, *norms, few_cos, few_sin)
    return {
        "types": all(
            one.dtype == dtype and one.shape == other.shape for one, other in zip(found, exact, strict=True)
        ),
        "alone": all(torch.equal(one[..., :1, :, :], other) for one, other in zip(found, part, strict=True)),
        "errors": [error(one, right) for one, right in zip(found, exact, strict=True)],
        "eager": [error(one, right) for one, right in zip(eager, exact, strict=True)],
    }


def gelu(dtype: torch.dtype) -> dict[str, list[float] | bool]:
    x = torch.cat((torch.linspace(-100, 100, 2002), torch.linspace(-6, 6, 3000))).to(dtype)
    exact, eager = F.gelu(x.double(), approximate="tanh"), F.gelu(x, approximate="tanh")
    found = x.clone()
    phi_triton.gelu(found)

    def errors(one: Tensor) -> list[float]:
        return [float((((one.double() - exact).abs() - 1e-6).clamp(min=0) / (exact.abs() + 1e-30)).max())]

    return {"types": found.dtype == dtype, "alone": True, "errors": errors(found), "eager": errors(eager)}


if __name__ == "__main__":
    cases = {}
    for kind in (torch.float32, torch.bfloat16):
        short = str(kind).removeprefix("torch.")
        cases |= {f"heads, {name}, {short}": heads(name, kind) for name in HEADS}
        cases[f"activation, {short}"] = gelu(kind)
    print(json.dumps(cases))
