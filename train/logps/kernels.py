"""Triton kernels of the log-probs: log-sum-exp and chosen logits; the gradient of a chunk's logits.

Legend: T tokens, D hidden, V vocabulary, C vocabulary entries of one chunk, P parts of the vocabulary.

Both kernels compute tiles of logits, hidden @ weight.T + bias, with float32 accumulators; bfloat16 inputs
meet on tensor cores. Neither has atomics: each program owns what it writes, so results are the same on every
run. Programs that run side by side share their vocabulary tiles first and then their tokens, GROUP tiles of
them at a time, so that weights come from memory about once a group and hidden states stay in the L2 cache.
"""

from __future__ import annotations

import os
from typing import Any

import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether the kernels run as Python on a CPU, for tests."""
TOKENS = 16 if INTERPRETED else 128
"""Tokens of a tile. Not tuned: callers size buffers by it."""
GROUP = 16
"""Token tiles that share a vocabulary tile."""


def _tuned(kernel: Any) -> Any:
    """The kernel with tile sizes tried out on its first call for a width; fixed ones where interpreted."""
    if INTERPRETED:
        return triton.heuristics({"IDS": lambda _: 32, "INNER": lambda _: 16})(kernel)
    sizes = [
        # (vocabulary ids, hidden entries of a step, warps, stages)
        (256, 64, 8, 3),
        (256, 64, 8, 4),
        (128, 64, 8, 4),
        (128, 64, 4, 4),
        (128, 32, 4, 4),
        (64, 64, 4, 4),
        (64, 32, 4, 3),
    ]
    configs = [
        triton.Config({"IDS": ids, "INNER": inner}, num_warps=warps, num_stages=stages)
        for ids, inner, warps, stages in sizes
    ]
    # Kept on disk: a run that goes on in another process must not come to other sizes, and other bits.
    return triton.autotune(configs, key=["D"], cache_results=True)(kernel)


@triton.jit
def _logits(
    hidden, weight, bias, rows, ids, T, stop, D, hidden_stride, weight_stride,
    IDS: tl.constexpr, INNER: tl.constexpr, TOKENS: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A [TOKENS, IDS] tile of logits, float32; -inf at ids from `stop` on."""
    # Rows past the end repeat the last one, which costs no mask; their results are never stored.
    safe_rows = tl.minimum(rows, T - 1).to(tl.int64)
    safe_ids = tl.minimum(ids, stop - 1).to(tl.int64)
    inner = tl.arange(0, INNER)
    hidden_at = hidden + safe_rows[:, None] * hidden_stride + inner[None, :]
    weight_at = weight + safe_ids[None, :] * weight_stride + inner[:, None]
    tile = tl.zeros((TOKENS, IDS), dtype=tl.float32)
    for first in range(0, D, INNER):
        left = D - first
        h = tl.load(hidden_at, mask=inner[None, :] < left, other=0.0)
        w = tl.load(weight_at, mask=inner[:, None] < left, other=0.0)
        if UPCAST:
            h, w = h.to(tl.float32), w.to(tl.float32)
        tile = tl.dot(h, w, tile, input_precision=PRECISION)
        hidden_at += INNER
        weight_at += INNER
    if bias is not None:
        tile += tl.load(bias + safe_ids).to(tl.float32)[None, :]
    return tl.where((ids < stop)[None, :], tile, float("-inf"))


@triton.jit
def _place(tiles, across, GROUP: tl.constexpr):
    """(token tile, other tile) of this program: GROUP token tiles meet one other tile after another."""
    program = tl.program_id(0)
    group = program // (GROUP * across)
    size = tl.minimum(tiles - group * GROUP, GROUP)
    within = program - group * GROUP * across
    return group * GROUP + within % size, within // size


@triton.jit
def _statistics(
    hidden, weight, bias, targets, totals_PT, chosen_T, T, V, D, parts,
    hidden_stride, weight_stride,
    IDS: tl.constexpr, INNER: tl.constexpr, TOKENS: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of each token's logits over one of the `parts` of the vocabulary; the chosen logits."""
    tile, part = _place(tl.cdiv(T, TOKENS), parts, GROUP)
    rows = tile * TOKENS + tl.arange(0, TOKENS)
    target = tl.load(targets + rows, mask=rows < T, other=-1)
    size = tl.cdiv(tl.cdiv(V, IDS), parts) * IDS
    first = part * size
    peak = tl.full((TOKENS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((TOKENS,), dtype=tl.float32)
    for at in range(first, tl.minimum(first + size, V), IDS):
        ids = at + tl.arange(0, IDS)
        logits = _logits(
            hidden, weight, bias, rows, ids, T, V, D, hidden_stride, weight_stride,
            IDS, INNER, TOKENS, PRECISION, UPCAST,
        )  # fmt: skip
        higher = tl.maximum(peak, tl.max(logits, 1))
        total = total * tl.exp(peak - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        peak = higher
        is_target = target[:, None] == ids[None, :]
        hit = (target >= at) & (target < tl.minimum(at + IDS, V))
        tl.store(chosen_T + rows, tl.sum(tl.where(is_target, logits, 0.0), 1), mask=hit & (rows < T))
    # A part past the end of the vocabulary has no ids: -inf.
    found = tl.where(total > 0, peak + tl.log(total), float("-inf"))
    tl.store(totals_PT + part.to(tl.int64) * T + rows, found, mask=rows < T)


@triton.jit
def _gradients(
    hidden, weight, bias, targets, total_T, grad_T, tile_TC, sums, T, start, stop, D,
    hidden_stride, weight_stride, width,
    IDS: tl.constexpr, INNER: tl.constexpr, TOKENS: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """d loss / d logits of the chunk [start, stop), and its sums over each tile of tokens."""
    tile, across = _place(tl.cdiv(T, TOKENS), tl.cdiv(stop - start, IDS), GROUP)
    rows = tile * TOKENS + tl.arange(0, TOKENS)
    ids = start + across * IDS + tl.arange(0, IDS)
    logits = _logits(
        hidden, weight, bias, rows, ids, T, stop, D, hidden_stride, weight_stride,
        IDS, INNER, TOKENS, PRECISION, UPCAST,
    )  # fmt: skip
    inside = rows < T
    target = tl.load(targets + rows, mask=inside, other=-1)
    total = tl.load(total_T + rows, mask=inside, other=0.0)
    upstream = tl.load(grad_T + rows, mask=inside, other=0.0)
    is_target = (target[:, None] == ids[None, :]).to(tl.float32)
    found = (is_target - tl.exp(logits - total[:, None])) * upstream[:, None]
    found = tl.where(inside[:, None], found, 0.0)
    at = rows.to(tl.int64)[:, None] * width + (ids - start)[None, :]
    valid = inside[:, None] & (ids < stop)[None, :]
    tl.store(tile_TC + at, found.to(tile_TC.dtype.element_ty), mask=valid)
    if sums is not None:
        tl.store(sums + tile.to(tl.int64) * width + ids - start, tl.sum(found, 0), mask=ids < stop)


statistics = _tuned(_statistics)
gradients = _tuned(_gradients)
