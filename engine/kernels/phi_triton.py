"""What stands between a Phi block's matrix products, on a GPU. Eager twins: engine/kernels/phi.py.

Numbers are stored as they come and computed in float32, rounded once at the end. Every row is computed alone,
so a result never depends on the batch around it.

Legend: R rows, H heads, E head dimension.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

BLOCK = 1024
"""Numbers of the activation that a program takes."""


@triton.jit
def _gelu(x_at, count, BLOCK: tl.constexpr):
    """x = tanh-GELU of x: x * sigmoid(2 u), u = sqrt(2 / pi) * (x + 0.044715 x^3)."""
    # int64: the activations of a large batch may be more than 2^31 numbers.
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_at + place, mask=place < count, other=0.0).to(tl.float32)
    # The constants are -2 sqrt(2 / pi) and that times 0.044715: one exponential instead of a tanh.
    found = x / (1.0 + tl.exp(x * (-1.5957691216 + x * x * -0.0713548163)))
    tl.store(x_at + place, found.to(x_at.dtype.element_ty), mask=place < count)


@triton.jit
def _part(x_at, first, count, heads, H: tl.constexpr, WIDE: tl.constexpr):
    """`count` numbers of each head from `first` on, float32 [HEADS, WIDE], zeros past them, and a mask."""
    place = tl.arange(0, WIDE)
    inside = (heads < H) & (place < count)[None, :]
    at = x_at + first + place[None, :]
    return tl.load(at, mask=inside, other=0.0).to(tl.float32), inside


@triton.jit
def _away(x, mean, inside):
    """Squared distances from the mean, summed over each head."""
    return tl.sum(tl.where(inside, (x - mean) * (x - mean), 0.0), 1)


@triton.jit
def _affine(x, weight_at, bias_at, first, count, mean, scale, WIDE: tl.constexpr):
    """LayerNorm of a part, from the statistics of its heads."""
    place = tl.arange(0, WIDE)
    weight = tl.load(weight_at + first + place, mask=place < count, other=0.0).to(tl.float32)
    bias = tl.load(bias_at + first + place, mask=place < count, other=0.0).to(tl.float32)
    return (x - mean) * scale * weight[None, :] + bias[None, :]


@triton.jit
def _turned(
    x_at, weight_at, bias_at, eps, cos, sin, out_at,
    H: tl.constexpr, E: tl.constexpr, ROTARY: tl.constexpr,
    HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """LayerNorm over E, then rotation of the first ROTARY dimensions, of H heads that lie one after another.

    A head is what turns with what, half and half, and what is not rotated: three parts, each in one piece.
    """
    half: tl.constexpr = ROTARY // 2
    rest: tl.constexpr = E - ROTARY
    heads = tl.arange(0, HEADS)[:, None]
    x_at += heads * E
    out_at += heads * E
    low, inside = _part(x_at, 0, half, heads, H, HALF)
    high, _ = _part(x_at, half, half, heads, H, HALF)
    tail, beyond = _part(x_at, ROTARY, rest, heads, H, REST)
    # LayerNorm in two passes over registers: the mean of squares minus the square of the mean would cancel.
    mean = ((tl.sum(low, 1) + tl.sum(high, 1) + tl.sum(tail, 1)) / E)[:, None]
    squares = _away(low, mean, inside) + _away(high, mean, inside) + _away(tail, mean, beyond)
    scale = (1.0 / tl.sqrt(squares / E + eps))[:, None]
    low = _affine(low, weight_at, bias_at, 0, half, mean, scale, HALF)
    high = _affine(high, weight_at, bias_at, half, half, mean, scale, HALF)
    tail = _affine(tail, weight_at, bias_at, ROTARY, rest, mean, scale, REST)
    place, past = tl.arange(0, HALF), tl.arange(0, REST)
    turns = place < half
    low_cos = tl.load(cos + place, mask=turns, other=0.0)[None, :]
    low_sin = tl.load(sin + place, mask=turns, other=0.0)[None, :]
    high_cos = tl.load(cos + half + place, mask=turns, other=0.0)[None, :]
    high_sin = tl.load(sin + half + place, mask=turns, other=0.0)[None, :]
    # Rotate-half: a dimension of the first half turns with the one at the same place of the second.
    dtype = out_at.dtype.element_ty
    tl.store(out_at + place[None, :], (low * low_cos - high * low_sin).to(dtype), mask=inside)
    tl.store(out_at + half + place[None, :], (high * high_cos + low * high_sin).to(dtype), mask=inside)
    tl.store(out_at + ROTARY + past[None, :], tail.to(dtype), mask=beyond)


@triton.jit
def _heads(
    qkv, q_weight, q_bias, k_weight, k_bias, eps, cos, sin, tables, q_at, k_at,
    H: tl.constexpr, E: tl.constexpr, ROTARY: tl.constexpr,
    HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """q and k of one row of qkv [R, 3, H, E]; row r takes row r % tables of cos and sin."""
    row = tl.program_id(0).to(tl.int64)
    cos += row % tables * ROTARY
    sin += row % tables * ROTARY
    # q and k lie one behind the other in a row of qkv; v, behind them, stays where it is.
    x_at, at = qkv + row * 3 * H * E, row * H * E
    _turned(x_at, q_weight, q_bias, eps, cos, sin, q_at + at, H, E, ROTARY, HEADS, HALF, REST)
    _turned(x_at + H * E, k_weight, k_bias, eps, cos, sin, k_at + at, H, E, ROTARY, HEADS, HALF, REST)


def gelu(x: Tensor) -> None:
    """tanh-GELU in place."""
    _gelu[(triton.cdiv(x.numel(), BLOCK),)](x, x.numel(), BLOCK)


def heads(
    qkv: Tensor, q_norm: nn.LayerNorm, k_norm: nn.LayerNorm, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """q and k, normed and rotated, [..., H, E], of qkv [..., 3, H, E]; contiguous; cos and sin float32."""
    *lead, _, count, size = qkv.shape
    q, k = (torch.empty(*lead, count, size, dtype=qkv.dtype, device=qkv.device) for _ in range(2))
    rotary = cos.shape[-1]
    # A tile's sides are powers of two; one program takes all heads of a row.
    tile = [triton.next_power_of_2(max(1, side)) for side in (count, rotary // 2, size - rotary)]
    norms = (q_norm.weight, q_norm.bias, k_norm.weight, k_norm.bias, q_norm.eps)
    _heads[(q.numel() // (count * size),)](
        *(qkv, *norms, cos, sin, cos.numel() // rotary, q, k, count, size, rotary, *tile),
        num_warps=min(8, max(1, tile[0] * tile[1] // 128)),
    )
    return q, k
