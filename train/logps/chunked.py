"""Log-probs by chunks of the vocabulary, for any device; the version of the CPU.

Legend: T tokens, D hidden, V vocabulary, C vocabulary entries of one chunk, K tokens of one piece of a chunk.

The walk goes over chunks of the vocabulary, not of the tokens: each chunk owns its rows of the head's
gradient, which are one product, written once. Of a chunk only the log-sum-exp and the chosen logits are
needed in the forward pass, so the backward pass would have to make every logit again: four products in all,
where T x V matrices need three. On a CPU products are all that counts, so logits of the first tokens wait
for the backward pass in two places:

- in the storage of the weight's gradient, which must be had in the end: a chunk's [C, D] rows hold the logits
  of D tokens (of D / 2 for a bfloat16 weight) until its gradient is written over them;
- for float32 inputs, in `KEPT_BYTES` beside it. Other inputs need that memory for their conversion.

The logits of the other tokens are made again; with T <= D there are none. Every forward pass that waits for
its backward pass holds such a storage.

Logits are float32 products: torch has no CPU product of bfloat16 factors with a float32 result, and rounded
logits would cost log-probs three digits. A bfloat16 weight is converted a chunk at a time. Where the CPU
multiplies bfloat16 in hardware, the two products of the gradients take it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.machine.precision import serving_dtype
from train.logps.head import Head, accumulation_dtype

KEPT_BYTES = 168 * 2**20
"""Logits kept for the backward pass beside those in the gradient's storage."""
TILE_BYTES = 16 * 2**20
"""About as many bytes of logits make a chunk."""
NARROWEST, WIDEST = 256, 4096
"""Vocabulary entries of a chunk: products of fewer are slow, of more no faster."""


class Plan(NamedTuple):
    """How one call walks."""

    vocabulary: int
    chunk: int
    inside: int
    """Tokens whose logits are kept in the storage of the weight's gradient."""
    beside: int
    """Tokens after those whose logits are kept in memory of their own."""
    narrow: bool
    """Whether the products of the gradients have bfloat16 factors."""

    @property
    def kept(self) -> int:
        """Tokens whose logits are computed once."""
        return self.inside + self.beside

    def chunks(self) -> Iterator[slice]:
        """Vocabulary entries of each chunk."""
        for start in range(0, self.vocabulary, self.chunk):
            yield slice(start, min(start + self.chunk, self.vocabulary))


def chunked_logps(
    hidden_TD: Tensor,
    head: Head,
    targets_T: Tensor,
    chunk: int = 0,
    kept_bytes: int | None = None,
    narrow: bool | None = None,
) -> Tensor:
    """As `dispatch.token_logps`.

    `chunk` 0 chooses the width. At most 2 T x `chunk` logits and `kept_bytes` (by default as above) are alive
    at a time, besides what waits in the gradient's storage. Nothing is kept where no gradient will be asked
    for. `narrow` lets bfloat16 inputs take the gradients' products in bfloat16; by default where the device
    has such products.
    """
    tokens, vocabulary, wide = len(targets_T), len(head.weight_VD), accumulation_dtype(hidden_TD)
    if not chunk:
        chunk = min(max(TILE_BYTES // (max(tokens, 1) * wide.itemsize), NARROWEST), WIDEST)
    inside = beside = 0
    if torch.is_grad_enabled():
        weight = head.weight_VD
        ratio = wide.itemsize // weight.dtype.itemsize
        if weight.requires_grad and ratio and weight.shape[1] % ratio == 0:
            inside = min(tokens, weight.shape[1] // ratio)
        if kept_bytes is None:
            kept_bytes = KEPT_BYTES if hidden_TD.dtype == weight.dtype == wide else 0
        if any(tensor is not None and tensor.requires_grad for tensor in (hidden_TD, *head)):
            beside = min(tokens - inside, kept_bytes // (vocabulary * wide.itemsize))
    if narrow is None:
        narrow = hidden_TD.is_cuda or serving_dtype("auto") == "bfloat16"
    narrow = narrow and hidden_TD.dtype == head.weight_VD.dtype == torch.bfloat16
    plan = Plan(vocabulary, chunk, inside, beside, narrow)
    return _Chunked.apply(hidden_TD, *head, targets_T, plan)  # type: ignore[no-any-return, no-untyped-call]


class _Kept:
    """Memory of the logits that wait, and of the weight's gradient that some of them wait in."""

    def __init__(self, weight_VD: Tensor, plan: Plan, wide: torch.dtype) -> None:
        self._plan = plan
        self._own = weight_VD.new_empty(plan.beside * plan.vocabulary, dtype=wide)
        self._wide = wide
        self.grad_weight_VD: Tensor | None = None
        if plan.inside:
            self.grad_weight_VD = torch.empty_like(weight_VD, memory_format=torch.contiguous_format)

    def pieces(self, chunk: slice) -> list[Tensor]:
        """The chunk's logits of the tokens `inside` and of those `beside`, [K, C] each."""
        plan, width = self._plan, chunk.stop - chunk.start
        found = []
        if self.grad_weight_VD is not None:
            first = chunk.start * self.grad_weight_VD.shape[1]
            size = plan.inside * width * self._wide.itemsize // self.grad_weight_VD.dtype.itemsize
            place = self.grad_weight_VD.view(-1)[first : first + size]
            found.append(place.view(self._wide).view(plan.inside, width))
        if plan.beside:
            first = chunk.start * plan.beside
            found.append(self._own[first : first + plan.beside * width].view(plan.beside, width))
        return found


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_T: Tensor, plan: Plan
    ) -> Tensor:
        wide, tokens = accumulation_dtype(hidden_TD), len(targets_T)
        h_TD = hidden_TD.to(wide)
        kept = _Kept(weight_VD, plan, wide)
        made = h_TD.new_empty((tokens - plan.kept) * plan.chunk)
        scratch = h_TD.new_empty(tokens * plan.chunk)
        weights = _WideRows(weight_VD, wide, plan.chunk)
        # Finite, so that a chunk of logits that are all -inf adds nothing.
        peak_T, sum_T = h_TD.new_full((tokens,), torch.finfo(wide).min), h_TD.new_zeros(tokens)
        chosen_T = h_TD.new_zeros(tokens)
        for chunk in plan.chunks():
            weight_CD, bias_C = weights.of(chunk), _slice(bias_V, chunk, wide)
            width, first = len(weight_CD), 0
            rest_KC = made[: (tokens - plan.kept) * width].view(tokens - plan.kept, width)
            for logits_KC in (*kept.pieces(chunk), rest_KC):
                piece = slice(first, first + len(logits_KC))
                _product(h_TD[piece], weight_CD, bias_C, logits_KC)
                _absorb(logits_KC, peak_T[piece], sum_T[piece], scratch)
                columns, hit = _columns(targets_T[piece], chunk)
                found = logits_KC.gather(1, columns)
                chosen_T[piece].copy_(torch.where(hit, found, chosen_T[piece, None])[:, 0])
                first = piece.stop
        total_T = sum_T.log_().add_(peak_T)
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, targets_T, total_T)
        ctx.plan, ctx.kept = plan, kept if plan.kept else None
        return chosen_T - total_T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, weight_VD, bias_V, targets_T, total_T = ctx.saved_tensors
        plan, kept = ctx.plan, ctx.kept
        # The gradient is about to be written over the logits: a second backward pass makes them again.
        ctx.kept = None
        if kept is None:
            plan = plan._replace(inside=0, beside=0)
            kept = _Kept(weight_VD, plan, total_T.dtype)
        h_TD, tokens = hidden_TD.to(total_T.dtype), len(targets_T)
        grads = _Gradients(ctx.needs_input_grad, hidden_TD, h_TD, weight_VD, bias_V, plan, kept)
        weights = _WideRows(weight_VD, h_TD.dtype, plan.chunk)
        tile = h_TD.new_empty(tokens * plan.chunk)
        for chunk in plan.chunks():
            weight_CD, bias_C = weights.of(chunk), _slice(bias_V, chunk, h_TD.dtype)
            tile_TC = tile[: tokens * len(weight_CD)].view(tokens, len(weight_CD))
            first = 0
            for logits_KC in kept.pieces(chunk):
                piece = slice(first, first + len(logits_KC))
                torch.sub(logits_KC, total_T[piece, None], out=tile_TC[piece])
                first = piece.stop
            _product(h_TD[first:], weight_CD, bias_C, tile_TC[first:])
            tile_TC[first:].sub_(total_T[first:, None])
            tile_TC.exp_().mul_(-grad_T[:, None])
            columns, hit = _columns(targets_T, chunk)
            tile_TC.scatter_add_(1, columns, torch.where(hit, grad_T[:, None], 0.0))
            grads.add(chunk, tile_TC, weight_CD)
        return *grads.finished(hidden_TD.dtype), None, None


class _Gradients:
    """The three gradients while they are made, chunk by chunk."""

    def __init__(
        self,
        wanted: tuple[bool, ...],
        hidden_TD: Tensor,
        h_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        plan: Plan,
        kept: _Kept,
    ) -> None:
        self._h_TD = hidden_TD if plan.narrow else h_TD
        self._narrow = weight_VD if plan.narrow else None
        self._hidden_TD = torch.zeros_like(h_TD) if wanted[0] else None
        self._weight_VD: Tensor | None = None
        self._rounded: Tensor | None = None
        if wanted[1]:
            self._weight_VD = kept.grad_weight_VD
            if self._weight_VD is None:
                self._weight_VD = torch.empty_like(weight_VD, memory_format=torch.contiguous_format)
            if weight_VD.dtype != self._h_TD.dtype:
                self._rounded = h_TD.new_empty(plan.chunk, h_TD.shape[1])
        self._bias_V = torch.zeros_like(bias_V) if bias_V is not None and wanted[2] else None

    def add(self, chunk: slice, tile_TC: Tensor, weight_CD: Tensor) -> None:
        """Takes the gradient of a chunk's logits, and the chunk's rows of the weight."""
        if self._bias_V is not None:
            self._bias_V[chunk] = tile_TC.sum(0)
        if self._narrow is not None:
            tile_TC, weight_CD = tile_TC.to(self._narrow.dtype), self._narrow[chunk]
        if self._weight_VD is not None:
            rows_CD = self._weight_VD[chunk]
            if self._rounded is None:
                torch.mm(tile_TC.T, self._h_TD, out=rows_CD)
            else:
                rows_CD.copy_(torch.mm(tile_TC.T, self._h_TD, out=self._rounded[: len(rows_CD)]))
        if self._hidden_TD is None:
            return
        if self._narrow is None:
            self._hidden_TD.addmm_(tile_TC, weight_CD)
        else:
            self._hidden_TD += tile_TC @ weight_CD

    def finished(self, hidden: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of hidden states, weight and bias, in the inputs' types; None where not wanted."""
        first = None if self._hidden_TD is None else self._hidden_TD.to(hidden)
        return first, self._weight_VD, self._bias_V


class _WideRows:
    """Rows of the weight in the type of the sums, in one buffer that is used again."""

    def __init__(self, weight_VD: Tensor, wide: torch.dtype, chunk: int) -> None:
        self._weight_VD = weight_VD.detach()
        self._buffer: Tensor | None = None
        if weight_VD.dtype != wide:
            self._buffer = weight_VD.new_empty(chunk, weight_VD.shape[1], dtype=wide)

    def of(self, chunk: slice) -> Tensor:
        """[C, D], valid until the next call."""
        rows = self._weight_VD[chunk]
        return rows if self._buffer is None else self._buffer[: len(rows)].copy_(rows)


def _slice(bias_V: Tensor | None, chunk: slice, wide: torch.dtype) -> Tensor | None:
    return None if bias_V is None else bias_V.detach()[chunk].to(wide)


def _product(h_KD: Tensor, weight_CD: Tensor, bias_C: Tensor | None, out_KC: Tensor) -> None:
    if bias_C is None:
        torch.mm(h_KD, weight_CD.T, out=out_KC)
    else:
        torch.addmm(bias_C, h_KD, weight_CD.T, out=out_KC)


def _absorb(logits_KC: Tensor, peak_K: Tensor, sum_K: Tensor, scratch: Tensor) -> None:
    """Adds logits to running sums of exp(logit - peak), in place."""
    higher_K = torch.maximum(peak_K, logits_KC.amax(1))
    away_KC = scratch[: logits_KC.numel()].view(logits_KC.shape)
    torch.sub(logits_KC, higher_K[:, None], out=away_KC)
    sum_K.mul_(peak_K.sub_(higher_K).exp_()).add_(away_KC.exp_().sum(1))
    peak_K.copy_(higher_K)


def _columns(targets_K: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
    """Each target's column in this chunk, clamped into it, and whether it lies there; both [K, 1]."""
    hit = (targets_K >= chunk.start) & (targets_K < chunk.stop)
    return (targets_K - chunk.start).clamp(0, chunk.stop - chunk.start - 1)[:, None], hit[:, None]
