"""What stands between a Phi block's matrix products: fused on CPUs and GPUs, eager where it needs a gradient.

A small model decodes in products of a fraction of a millisecond, and PyTorch needs a dozen operations of
tens of microseconds between two of them; on a GPU a large one waits for its memory in them. `phi.cpp` and
`phi_triton.py` do the same in a few passes over the numbers. Each kernel has an eager twin here, which also
carries gradients.

Legend: N tokens, R branches, G stems, B batch, T tokens, H heads, E head dimension.
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
        not torch.is_grad_enabled()
        and all(one.device.type == device and one.dtype == tensors[0].dtype for one in tensors)
        and tensors[0].dtype in NAMES
        and (native() is not None if device == "cpu" else not eager())
    )


def tanh_gelu(x: Tensor) -> Tensor:
    """`F.gelu(x, approximate="tanh")`; the fused ones overwrite x."""
    if x.is_contiguous() and fused(x, device="cuda"):
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
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    turned = turned * cos + torch.cat((-high, low), -1) * sin
    return torch.cat((turned, kept), -1)


class Leaves(NamedTuple):
    """Where N new tokens stand among the tokens of R branches, each int64 [N] but `stem`."""

    stem: Tensor
    """[R]: the stem that each branch grew from."""
    branch: Tensor
    place: Tensor
    """A token's number in its branch."""
    shared: Tensor
    """It sees all of its stem, of its branch the tokens below this number,"""
    first: Tensor
    """and those from this number to itself."""


class StemCache(NamedTuple):
    """One layer's keys and values of stems, in blocks of LANES tokens."""

    keys: Tensor
    """[G, H, blocks, E, LANES], so that a query meets LANES keys at once."""
    values: Tensor
    """[G, H, blocks, LANES, E]"""

    @classmethod
    def of(cls, k: Tensor, v: Tensor) -> Self:
        """From k and v [G, T, H, E]."""
        blocks = -(-k.shape[1] // LANES)
        k, v = (
            F.pad(x, (0, 0, 0, 0, 0, blocks * LANES - x.shape[1])).unflatten(1, (blocks, LANES))
            for x in (k, v)
        )
        return cls(k.permute(0, 3, 1, 4, 2).contiguous(), v.permute(0, 3, 1, 2, 4).contiguous())


class BranchCache(NamedTuple):
    """One layer's own keys and values of branches; few tokens of many branches lie together."""

    keys: Tensor
    """[blocks, R, H, E, LANES]"""
    values: Tensor
    """[blocks, R, H, LANES, E]"""

    @classmethod
    def empty(cls, rows: int, tokens: int, stems: StemCache) -> Self:
        """Room for so many tokens of every row, uninitialised."""
        heads, size = stems.keys.shape[1], stems.keys.shape[3]
        blocks = -(-tokens // LANES)
        like = stems.keys
        return cls(
            like.new_empty(blocks, rows, heads, size, LANES), like.new_empty(blocks, rows, heads, LANES, size)
        )


def branch_attention(
    q: Tensor, k: Tensor, v: Tensor, stems: StemCache, stem_tokens: int, own: BranchCache, leaves: Leaves
) -> Tensor:
    """New tokens against their stems and their own branches, [N, H, E].

    q, k, v are [N, H, E]; k and v are stored in `own` first. `stem_tokens` tokens of each stem count.
    """
    tokens, count, size = q.shape
    if size % LANES or not fused(q, k, v, *stems, *own):
        return _branch_attention(q, k, v, stems, stem_tokens, own, leaves)
    q, k, out = q.contiguous(), k.contiguous(), torch.empty_like(q)
    v = v if v.stride()[1:] == (size, 1) else v.contiguous()
    sizes = (tokens, count, size, stem_tokens, stems.keys.shape[2], own.keys.shape[1], len(own.keys))
    _call("branch_attention", q, k, v, v.stride(0), *stems, *own, *leaves, *sizes, size**-0.5, out)
    return out


def _branch_attention(
    q: Tensor, k: Tensor, v: Tensor, stems: StemCache, stem_tokens: int, own: BranchCache, leaves: Leaves
) -> Tensor:
    """The eager twin."""
    branch, place = leaves.branch, leaves.place
    own.keys[place // LANES, branch, :, :, place % LANES] = k
    own.values[place // LANES, branch, :, place % LANES] = v
    of_stem = leaves.stem[branch]
    number = torch.arange(len(own.keys) * LANES, device=q.device)
    before, after = number < leaves.shared[:, None], number >= leaves.first[:, None]
    seen_NS = (number <= place[:, None]) & (before | after)

    def tokens(of_stems: Tensor, of_own: Tensor) -> Tensor:
        """Blocks [.., H, blocks, LANES, E] of both as [N, H, T, E]; what was never written becomes 0."""
        stem = of_stems[of_stem].flatten(2, 3)[:, :, :stem_tokens]
        every = of_own[:, branch].permute(1, 2, 0, 3, 4).flatten(2, 3)
        return torch.cat((stem, every.masked_fill(~seen_NS[:, None, :, None], 0)), 2)

    keys = tokens(stems.keys.transpose(-1, -2), own.keys.transpose(-1, -2))
    values = tokens(stems.values, own.values)
    mask = F.pad(seen_NS, (stem_tokens, 0), value=True)[:, None, None]
    return F.scaled_dot_product_attention(q[:, :, None], keys, values, attn_mask=mask)[:, :, 0]


def _call(name: str, first: Tensor, *others: Tensor | int | float) -> None:
    """Runs a kernel on all threads; the first tensor says how numbers are stored."""
    given = [one.data_ptr() if isinstance(one, Tensor) else one for one in (first, *others)]
    getattr(native(), f"hermes_{name}_{NAMES[first.dtype]}")(*given, torch.get_num_threads())
