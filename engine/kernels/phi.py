"""What stands between a Phi block's matrix products: fused on CPUs and GPUs, eager where it needs a gradient.

A small model decodes in products of a fraction of a millisecond, and PyTorch needs a dozen operations of
tens of microseconds between two of them; on a GPU a large one waits for its memory in them. `phi.cpp` and
`phi_triton.py` do the same in a few passes over the numbers. Each kernel has an eager twin here, which also
carries gradients.

Legend: N new tokens, C continuations, G prefixes, B batch, T tokens, H heads, E head dimension.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.kernels.native import eager, native

LANES = 8
"""Numbers of a vector register; the sizes that kernels work on are multiples of it."""
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def fused(*tensors: Tensor, device: str = "cpu") -> bool:
    """Whether a device's kernels can take these."""
    return (
        # Kernels carry no gradients; the twins do.
        not torch.is_grad_enabled()
        and all(one.device.type == device and one.dtype == tensors[0].dtype for one in tensors)
        and tensors[0].dtype in NAMES
        and (native() is not None if device == "cpu" else not eager())
    )


def tanh_gelu(x: Tensor) -> Tensor:
    """`F.gelu(x, approximate="tanh")`; the fused ones overwrite x."""
    if x.is_contiguous() and fused(x, device="cuda"):
        # Only where it runs: a CPU build of PyTorch comes without Triton.
        from engine.kernels import phi_triton

        phi_triton.gelu(x)
    elif x.numel() % LANES or not x.is_contiguous() or not fused(x):
        return F.gelu(x, approximate="tanh")
    else:
        _call("gelu", x, x.numel())
    return x


def heads(
    qkv: Tensor, q_norm: nn.LayerNorm, k_norm: nn.LayerNorm, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k (normed, then rotated) and v, each [B, T, H, E], of qkv [B, T, 3, H, E].

    cos and sin are [T, rotary] or [B, T, rotary].
    """
    # v is neither normed nor rotated: it stays a view of the product that all three share.
    q, k, v = qkv.unbind(-3)
    *lead, count, size = q.shape
    if qkv.is_contiguous() and fused(qkv, q_norm.weight, device="cuda"):
        from engine.kernels import phi_triton

        cos, sin = cos.float().contiguous(), sin.float().contiguous()
        return *phi_triton.heads(qkv, q_norm, k_norm, cos, sin), v
    if size % LANES or not qkv.is_contiguous() or not fused(qkv, q_norm.weight):
        return rotate(q_norm(q), cos, sin), rotate(k_norm(k), cos, sin), v
    cos, sin = cos.float().contiguous(), sin.float().contiguous()
    rotary, rows = cos.shape[-1], math.prod(lead)
    q, k = q.new_empty(q.shape), k.new_empty(k.shape)
    norms = (q_norm.weight, q_norm.bias, k_norm.weight, k_norm.bias, q_norm.eps)
    sizes = (cos.numel() // rotary, rows, count, size, rotary)
    _call("heads", qkv, *norms, cos, sin, *sizes, q, k)
    return q, k, v


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the first rotary dimensions of x [..., T, H, E]; cos and sin are [..., T, rotary]."""
    width = cos.shape[-1]
    turned, kept = x[..., :width], x[..., width:]
    low, high = turned.chunk(2, -1)
    # Tables are float32; a twin in bfloat16 rounds them as the official code does.
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    turned = turned * cos + torch.cat((-high, low), -1) * sin
    return torch.cat((turned, kept), -1)


class NewTokens(NamedTuple):
    """Where N new tokens stand among the tokens of C continuations, each int64 [N] but `prefix`."""

    prefix: Tensor
    """[C]: the prefix that each continuation goes on from."""
    continuation: Tensor
    place: Tensor
    """A token's number in its continuation."""
    shared: Tensor
    """It sees all of its prefix, of its continuation the tokens below this number,"""
    first: Tensor
    """and those from this number to itself."""


class PrefixCache(NamedTuple):
    """One layer's keys and values of prefixes, in blocks of LANES tokens."""

    keys: Tensor
    """[G, H, blocks, E, LANES], so that a query meets LANES keys at once."""
    values: Tensor
    """[G, H, blocks, LANES, E]"""

    @classmethod
    def of(cls, k: Tensor, v: Tensor) -> Self:
        """From k and v [G, T, H, E]."""
        # Zeros fill the last block; the kernel is told how many tokens count.
        blocks = -(-k.shape[1] // LANES)
        k, v = (
            F.pad(x, (0, 0, 0, 0, 0, blocks * LANES - x.shape[1])).unflatten(1, (blocks, LANES))
            for x in (k, v)
        )
        return cls(k.permute(0, 3, 1, 4, 2).contiguous(), v.permute(0, 3, 1, 2, 4).contiguous())


class ContinuationCache(NamedTuple):
    """One layer's own keys and values of continuations; few tokens of many continuations lie together."""

    keys: Tensor
    """[blocks, C, H, E, LANES]"""
    values: Tensor
    """[blocks, C, H, LANES, E]"""

    @classmethod
    def empty(cls, rows: int, tokens: int, prefixes: PrefixCache) -> Self:
        """Room for so many tokens of every row, uninitialised."""
        heads, size = prefixes.keys.shape[1], prefixes.keys.shape[3]
        blocks = -(-tokens // LANES)
        like = prefixes.keys
        return cls(
            like.new_empty(blocks, rows, heads, size, LANES), like.new_empty(blocks, rows, heads, LANES, size)
        )


def continuation_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefixes: PrefixCache,
    prefix_tokens: int,
    own: ContinuationCache,
    new: NewTokens,
) -> Tensor:
    """New tokens against their prefixes and their own continuations, [N, H, E].

    q, k, v are [N, H, E]; k and v are stored in `own` first. `prefix_tokens` tokens of each prefix count.
    """
    tokens, count, size = q.shape
    if size % LANES or not fused(q, k, v, *prefixes, *own):
        return _continuation_attention(q, k, v, prefixes, prefix_tokens, own, new)
    q, k, out = q.contiguous(), k.contiguous(), torch.empty_like(q)
    # v is a view into qkv, whose rows the kernel can step over; q and k were made anew by `heads`.
    v = v if v.stride()[1:] == (size, 1) else v.contiguous()
    sizes = (tokens, count, size, prefix_tokens, prefixes.keys.shape[2], own.keys.shape[1], len(own.keys))
    _call("continuation_attention", q, k, v, v.stride(0), *prefixes, *own, *new, *sizes, size**-0.5, out)
    return out


def _continuation_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefixes: PrefixCache,
    prefix_tokens: int,
    own: ContinuationCache,
    new: NewTokens,
) -> Tensor:
    """The eager twin."""
    continuation, place = new.continuation, new.place
    own.keys[place // LANES, continuation, :, :, place % LANES] = k
    own.values[place // LANES, continuation, :, place % LANES] = v
    of_prefix = new.prefix[continuation]
    number = torch.arange(len(own.keys) * LANES, device=q.device)
    before, after = number < new.shared[:, None], number >= new.first[:, None]
    seen_NS = (number <= place[:, None]) & (before | after)

    def tokens(of_prefixes: Tensor, of_own: Tensor) -> Tensor:
        """Blocks [.., H, blocks, LANES, E] of both as [N, H, T, E]."""
        prefix = of_prefixes[of_prefix].flatten(2, 3)[:, :, :prefix_tokens]
        every = of_own[:, continuation].permute(1, 2, 0, 3, 4).flatten(2, 3)
        # What was never written may be NaN, and NaN times a weight of 0 is NaN.
        return torch.cat((prefix, every.masked_fill(~seen_NS[:, None, :, None], 0)), 2)

    keys = tokens(prefixes.keys.transpose(-1, -2), own.keys.transpose(-1, -2))
    values = tokens(prefixes.values, own.values)
    mask = F.pad(seen_NS, (prefix_tokens, 0), value=True)[:, None, None]
    return F.scaled_dot_product_attention(q[:, :, None], keys, values, attn_mask=mask)[:, :, 0]


def _call(name: str, first: Tensor, *others: Tensor | int | float) -> None:
    """Runs a kernel on all threads; the first tensor says how numbers are stored."""
    given = [one.data_ptr() if isinstance(one, Tensor) else one for one in (first, *others)]
    getattr(native(), f"hermes_{name}_{NAMES[first.dtype]}")(*given, torch.get_num_threads())
