"""Log-probs of chosen tokens, without ever holding a tokens-by-vocabulary matrix.

Legend: T tokens, D hidden, V vocabulary, C vocabulary entries in one chunk.

The walk goes over chunks of the vocabulary, not of the tokens: each chunk owns its rows of the head's
gradient, so the backward pass needs no float32 accumulator of the size of the head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 4096


def eager_token_logps(hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor, targets_T: Tensor) -> Tensor:
    """The twin of `token_logps` in plain torch operations; keeps T x V values for the backward pass."""
    wide = _wide(hidden_TD)
    logits_TV = hidden_TD.to(wide) @ weight_VD.to(wide).T + bias_V.to(wide)
    return logits_TV.log_softmax(-1).gather(-1, targets_T[:, None])[:, 0]


def token_logps(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    targets_T: Tensor,
    chunk: int = CHUNK,
) -> Tensor:
    """log p(target) of each token under softmax(hidden @ weight.T + bias), [T], at least float32.

    Give only the positions that carry a label: every row here costs a pass over the vocabulary.
    Sums run in float32 (float64 for float64 inputs); gradients come back in the inputs' own types. At most
    2 T x `chunk` logits are alive at a time, in the backward pass too.
    """
    return _ChunkedLogps.apply(hidden_TD, weight_VD, bias_V, targets_T, chunk)  # type: ignore[no-any-return]


def _wide(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)


class _ChunkedLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor, targets_T: Tensor, chunk: int
    ) -> Tensor:
        wide = _wide(hidden_TD)
        h_TD = hidden_TD.to(wide)
        total_T = h_TD.new_full(targets_T.shape, float("-inf"))
        chosen_T = h_TD.new_zeros(targets_T.shape)
        for start in range(0, len(weight_VD), chunk):
            logits_TC = _logits(h_TD, weight_VD, bias_V, start, chunk)
            total_T = torch.logaddexp(total_T, logits_TC.logsumexp(-1))
            rows, columns = _hits(targets_T, start, logits_TC.shape[1])
            chosen_T[rows] = logits_TC[rows, columns]
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, targets_T, total_T)
        ctx.chunk = chunk
        return chosen_T - total_T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, weight_VD, bias_V, targets_T, total_T = ctx.saved_tensors
        h_TD = hidden_TD.to(total_T.dtype)
        grad_hidden_TD = torch.zeros_like(h_TD)
        grad_weight_VD = torch.empty_like(weight_VD)
        grad_bias_V = torch.empty_like(bias_V)
        for start in range(0, len(weight_VD), ctx.chunk):
            logits_TC = _logits(h_TD, weight_VD, bias_V, start, ctx.chunk)
            grad_TC = logits_TC.sub_(total_T[:, None]).exp_().mul_(-grad_T[:, None])
            stop = start + grad_TC.shape[1]
            rows, columns = _hits(targets_T, start, grad_TC.shape[1])
            grad_TC[rows, columns] += grad_T[rows]
            grad_weight_VD[start:stop] = grad_TC.T @ h_TD
            grad_bias_V[start:stop] = grad_TC.sum(0)
            grad_hidden_TD.addmm_(grad_TC, weight_VD[start:stop].to(h_TD.dtype))
        return grad_hidden_TD.to(hidden_TD.dtype), grad_weight_VD, grad_bias_V, None, None


def _logits(h_TD: Tensor, weight_VD: Tensor, bias_V: Tensor, start: int, chunk: int) -> Tensor:
    part, bias = weight_VD[start : start + chunk], bias_V[start : start + chunk]
    return torch.addmm(bias.to(h_TD.dtype), h_TD, part.to(h_TD.dtype).T)


def _hits(targets_T: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows whose target lies in this chunk, and the target's column in it."""
    rows = ((targets_T >= start) & (targets_T < start + width)).nonzero()[:, 0]
    return rows, targets_T[rows] - start


class HeadLogps(nn.Module):
    """`token_logps` as a module that owns the head's parameters.

    A sharded trainer gathers a module's own parameters around its forward and backward passes. Reading
    `lm_head.weight` from outside would find an empty shard; here the parameters are shared with the head,
    as tied weights are, and are gathered when this module runs.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias

    def forward(self, hidden_TD: Tensor, targets_T: Tensor) -> Tensor:
        """log p(target), [T] float32."""
        return token_logps(hidden_TD, self.weight, self.bias, targets_T)
