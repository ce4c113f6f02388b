"""Log-probs by Triton kernels, for GPUs.

Legend: T tokens, D hidden, V vocabulary, C vocabulary entries of one chunk, P parts of the vocabulary.

Forward: a program walks over a part of the vocabulary for one tile of tokens, with a running log-sum-exp; the
parts' sums meet in a [P, T] table. No logit leaves the chip.

Backward: one kernel makes the logits of a chunk of the vocabulary again and writes their gradient, [T, C] in
the inputs' type, with float32 sums over tokens for the bias. Two library products then give the chunk's rows
of dWeight, whole and written once, and add to dHidden, which is accumulated in float32. Two kernels that
recompute the tile, one for dHidden and one for dWeight, would need no [T, C] buffer, but a product more, and
would run both gradients' products in Triton; these plain shapes are where a library is at its best. So there
are four products, two of them the library's, and with `TILE_BYTES` of buffer one chunk or a few. Rounding the
gradient of the logits to bfloat16 is what every bfloat16 backward pass does.

Nothing is atomic: results are the same on every run on one device.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from train.logps import kernels
from train.logps.head import Head

TILE_BYTES = 256 * 2**20
"""About as many bytes of logits' gradients are alive at a time."""
PROGRAMS = 2048
"""Programs that the forward pass aims for: some for every processor of a GPU, whatever T is."""
SMALLEST_TILE = 128


def fused_logps(
    hidden_TD: Tensor,
    head: Head,
    targets_T: Tensor,
    tile_bytes: int = TILE_BYTES,
) -> Tensor:
    """As `dispatch.token_logps`, for bfloat16 and float32; `tile_bytes` bound a chunk going backward."""
    # Factors of two types meet in the wider one.
    both = torch.promote_types(hidden_TD.dtype, head.weight_VD.dtype)
    hidden_TD, head = hidden_TD.to(both), head._replace(weight_VD=head.weight_VD.to(both))
    return _Fused.apply(hidden_TD, *head, targets_T, tile_bytes)  # type: ignore[no-any-return, no-untyped-call]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_T: Tensor,
        tile_bytes: int,
    ) -> Tensor:
        hidden_TD, weight_VD = _rows(hidden_TD), _rows(weight_VD)
        tokens, vocabulary = len(targets_T), len(weight_VD)
        tiles = -(-tokens // kernels.TOKENS)
        parts = max(16, -(-PROGRAMS // max(tiles, 1)))
        parts = min(parts, -(-vocabulary // SMALLEST_TILE))
        totals_PT = hidden_TD.new_empty(parts, tokens, dtype=torch.float32)
        chosen_T = hidden_TD.new_zeros(tokens, dtype=torch.float32)
        if tokens:
            inputs, outputs = (hidden_TD, weight_VD, bias_V, targets_T), (totals_PT, chosen_T)
            strides = hidden_TD.stride(0), weight_VD.stride(0)
            sizes = (tokens, vocabulary, hidden_TD.shape[1], parts, *strides)
            with _device(hidden_TD):
                kernels.statistics[(tiles * parts,)](*inputs, *outputs, *sizes, **_constants())
        total_T = totals_PT.logsumexp(0)
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, targets_T, total_T)
        ctx.tile_bytes = tile_bytes
        return chosen_T - total_T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, weight_VD, bias_V, targets_T, total_T = ctx.saved_tensors
        tokens, vocabulary, grad_T = len(targets_T), len(weight_VD), grad_T.contiguous()
        chunk = max(ctx.tile_bytes // (max(tokens, 1) * hidden_TD.element_size()) // 256 * 256, 256)
        chunk = min(chunk, vocabulary)
        tile = hidden_TD.new_empty(tokens * chunk)
        tiles = -(-tokens // kernels.TOKENS)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden_TD = hidden_TD.new_zeros(hidden_TD.shape, dtype=torch.float32) if wants_hidden else None
        grad_weight_VD = None
        if wants_weight:
            grad_weight_VD = torch.empty_like(weight_VD, memory_format=torch.contiguous_format)
        grad_bias_V = torch.zeros_like(bias_V) if bias_V is not None and wants_bias else None
        for first in range(0, vocabulary, chunk) if tokens else ():
            last = min(first + chunk, vocabulary)
            rows, width = slice(first, last), last - first
            tile_TC = tile[: tokens * width].view(tokens, width)
            sums = None if grad_bias_V is None else total_T.new_empty(tiles, width)
            _gradient_tile(
                hidden_TD, weight_VD, bias_V, targets_T, total_T, grad_T, tile_TC, sums, (first, last)
            )
            if grad_weight_VD is not None:
                torch.mm(tile_TC.T, hidden_TD, out=grad_weight_VD[rows])
            if grad_bias_V is not None and sums is not None:
                grad_bias_V[rows] = sums.sum(0)
            if grad_hidden_TD is not None:
                grad_hidden_TD += _wide_product(tile_TC, weight_VD[rows])
        if grad_hidden_TD is not None:
            grad_hidden_TD = grad_hidden_TD.to(hidden_TD.dtype)
        if grad_weight_VD is not None and not tokens:
            grad_weight_VD.zero_()
        return grad_hidden_TD, grad_weight_VD, grad_bias_V, None, None


def _gradient_tile(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_T: Tensor,
    total_T: Tensor,
    grad_T: Tensor,
    tile_TC: Tensor,
    sums: Tensor | None,
    part: tuple[int, int],
) -> None:
    tokens, width = tile_TC.shape

    def grid(sizes: dict[str, Any]) -> tuple[int]:
        return (-(-tokens // kernels.TOKENS) * -(-width // sizes["IDS"]),)

    inputs, outputs = (hidden_TD, weight_VD, bias_V, targets_T, total_T, grad_T), (tile_TC, sums)
    sizes = (tokens, *part, hidden_TD.shape[1], hidden_TD.stride(0), weight_VD.stride(0), width)
    with _device(hidden_TD):
        kernels.gradients[grid](*inputs, *outputs, *sizes, **_constants())


def _constants() -> dict[str, Any]:
    """What the kernels are compiled for; float32 products are exact unless torch may round its own."""
    exact = torch.get_float32_matmul_precision() == "highest"
    return {
        "TOKENS": kernels.TOKENS,
        "GROUP": kernels.GROUP,
        "PRECISION": "ieee" if exact else "tf32",
        # The interpreter multiplies the bits of bfloat16 as integers.
        "UPCAST": kernels.INTERPRETED,
    }


def _rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, however its factors are stored."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _device(tensor: Tensor) -> Any:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
