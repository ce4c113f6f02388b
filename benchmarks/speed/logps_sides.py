"""The sides of the log-prob comparison: forward and backward of log p(target) to hidden, weight and bias.

Legend: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.records import Record
from train.logps.chunked import chunked_logps
from train.logps.dispatch import token_logps
from train.logps.eager import eager_logps
from train.logps.head import Head, accumulation_dtype

Gradients = tuple[Tensor, ...]
SIDES = (
    *("ours", "products", "log_softmax", "log_softmax_float32"),
    *("liger", "liger_fused", "liger_dpo", "cut_cross_entropy"),
)
NOTES = {
    "ours": "token_logps",
    "products": "the four matrix products of full recomputation, bare, in the type of the sums",
    "eager": "full logits with float32 sums",
    "chunked": "the chunked version, which needs no kernel",
    "log_softmax": "log_softmax and gather on full logits, in the inputs' type, as the official script does",
    "log_softmax_float32": "the same on logits that are converted to float32 first",
    "liger": "Liger's chunked log-probs of given tokens (_ChunkedSelectiveLogProbFunction)",
    "liger_fused": "Liger's fused linear cross entropy, a loss a token; it is Triton, for GPUs",
    "liger_dpo": "Liger's fused linear DPO, pairs of rows of 256 tokens; gradients are those of its loss",
    "cut_cross_entropy": "cut-cross-entropy, its torch.compile version on a CPU; it takes no bias",
}
ROW = 256
"""Tokens of a row of the DPO side: the codes of an image."""


class Size(Record):
    """How large the problem is."""

    tokens: int = 4096
    hidden: int = 2048
    vocabulary: int = 58498
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0


class Inputs(NamedTuple):
    """What all sides get; the first three want gradients."""

    hidden_TD: Tensor
    weight_VD: Tensor
    bias_V: Tensor
    targets_T: Tensor
    upstream_T: Tensor
    """d loss / d log p, as a preference loss gives it: one value a row, of either sign."""

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states, weight and bias."""
        return self[:3]


def make_inputs(size: Size) -> Inputs:
    """Random inputs whose logits have a standard deviation of about 2."""
    dice = torch.Generator().manual_seed(size.seed)
    dtype = getattr(torch, size.dtype)

    def draw(*shape: int, scale: float) -> Tensor:
        values = torch.randn(*shape, generator=dice).mul_(scale).to(size.device, dtype)
        return values.requires_grad_()

    rows = -(-size.tokens // ROW)
    upstream = torch.randn(rows, generator=dice).repeat_interleave(ROW)[: size.tokens] / rows
    return Inputs(
        draw(size.tokens, size.hidden, scale=1.0),
        draw(size.vocabulary, size.hidden, scale=2 * size.hidden**-0.5),
        draw(size.vocabulary, scale=0.1),
        torch.randint(size.vocabulary, (size.tokens,), generator=dice).to(size.device),
        upstream.to(size.device),
    )


class Held(NamedTuple):
    """The state between the passes: log-probs or a loss, and what backward starts from."""

    value: Tensor
    upstream: Tensor
    leaves: tuple[Tensor, ...]

    def backward(self) -> Gradients:
        """The gradients of the leaves."""
        return torch.autograd.grad(self.value, self.leaves, self.upstream.to(self.value.dtype))


def forward(side: str, inputs: Inputs) -> Held:
    """The forward pass of a side; not of `products`, which has none.

    Raises:
        ImportError: the side's package is not installed.
    """
    logps: dict[str, Callable[[Inputs], Tensor]] = {
        "ours": _ours,
        "eager": _eager,
        "chunked": _chunked,
        "log_softmax": lambda x: _full(x, False),
        "log_softmax_float32": lambda x: _full(x, True),
        "liger": _liger,
        "liger_fused": _liger_fused,
    }
    if side in logps:
        return Held(logps[side](inputs), inputs.upstream_T, inputs.leaves)
    return _liger_dpo(inputs) if side == "liger_dpo" else _cut(inputs)


def both_passes(side: str, inputs: Inputs) -> Callable[[int], object]:
    """The work that is timed, as a function of the number of a round."""
    if side == "products":
        return _products(inputs)

    def work(number: int) -> object:
        found = forward(side, inputs).backward()
        if inputs.hidden_TD.is_cuda:
            torch.cuda.synchronize()
        return found

    return work


def _ours(x: Inputs) -> Tensor:
    return token_logps(x.hidden_TD, Head(x.weight_VD, x.bias_V), x.targets_T)


def _eager(x: Inputs) -> Tensor:
    return eager_logps(x.hidden_TD, Head(x.weight_VD, x.bias_V), x.targets_T)


def _chunked(x: Inputs) -> Tensor:
    return chunked_logps(x.hidden_TD, Head(x.weight_VD, x.bias_V), x.targets_T)


def _full(x: Inputs, widen: bool) -> Tensor:
    logits_TV = F.linear(x.hidden_TD, x.weight_VD, x.bias_V)
    if widen:
        logits_TV = logits_TV.float()
    return F.log_softmax(logits_TV, -1).gather(-1, x.targets_T[:, None])[:, 0]


def _liger(x: Inputs) -> Tensor:
    from liger_kernel.chunked_loss.fused_linear_ppo import _ChunkedSelectiveLogProbFunction

    found: Any = _ChunkedSelectiveLogProbFunction.apply(
        x.hidden_TD, x.weight_VD, x.targets_T, x.bias_V, 1.0, 4096
    )
    return found  # type: ignore[no-any-return]


def _liger_fused(x: Inputs) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    found: Any = liger_fused_linear_cross_entropy(
        x.hidden_TD, x.weight_VD, x.targets_T, x.bias_V, reduction="none"
    )
    return -found  # type: ignore[no-any-return]


def _liger_dpo(x: Inputs) -> Held:
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    pairs = len(x.targets_T) // (2 * ROW)
    if not pairs:
        raise ValueError(f"needs two rows of {ROW} tokens")
    used = 2 * pairs * ROW
    loss = LigerFusedLinearDPOLoss(compiled=False, use_ref_model=False)
    value, *_ = loss(
        x.weight_VD, x.hidden_TD[:used].view(2 * pairs, ROW, -1), x.targets_T[:used].view(-1, ROW), x.bias_V
    )
    return Held(value, value.new_ones(()), x.leaves)


def _cut(x: Inputs) -> Held:
    from cut_cross_entropy import linear_cross_entropy

    kind = "cce" if x.hidden_TD.is_cuda else "torch_compile"
    loss_T = linear_cross_entropy(x.hidden_TD, x.weight_VD, x.targets_T, reduction="none", impl=kind)
    return Held(-loss_T, x.upstream_T, x.leaves[:2])


def _products(x: Inputs) -> Callable[[int], object]:
    wide = accumulation_dtype(x.hidden_TD) if not x.hidden_TD.is_cuda else x.hidden_TD.dtype
    hidden_TD, weight_VD = x.hidden_TD.detach().to(wide), x.weight_VD.detach().to(wide)
    logits_TV = hidden_TD.new_empty(len(hidden_TD), len(weight_VD))
    first, second = torch.empty_like(hidden_TD), torch.empty_like(weight_VD)

    def work(number: int) -> object:
        torch.mm(hidden_TD, weight_VD.T, out=logits_TV)
        torch.mm(hidden_TD, weight_VD.T, out=logits_TV)
        torch.mm(logits_TV.T, hidden_TD, out=second)
        torch.mm(logits_TV, weight_VD, out=first)
        if hidden_TD.is_cuda:
            torch.cuda.synchronize()
        return None

    return work
