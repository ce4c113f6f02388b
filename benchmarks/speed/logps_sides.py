"""The sides of the log-prob comparison: forward and backward of log p(target) to hidden, weight and bias.

Legend: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.records import Record
from train.logps.chunked import chunked_logps
from train.logps.dispatch import token_logps
from train.logps.eager import eager_logps
from train.logps.head import Head, accumulation_dtype

SIDES = (
    "ours",
    "products",  # the four matrix products of full recomputation, bare, in the type of the sums
    "log_softmax",  # with gather on full logits, in the inputs' type, as the official script does
    "log_softmax_float32",  # the same on logits that are converted to float32 first
    "liger",  # its chunked log-probs of given tokens
    "liger_fused",  # its fused linear cross entropy, a loss a token: Triton, for GPUs
    "liger_dpo",  # its fused linear DPO, pairs of rows of 256 tokens; gradients are those of its loss
    "cut_cross_entropy",  # its torch.compile version on a CPU; it takes no bias
    "eager",  # ours: full logits with float32 sums
    "chunked",  # ours: the version that needs no kernel
)
ROW = 256
"""Tokens of a row of the DPO side: the codes of an image."""


class LogpsProblem(Record):
    """How large the problem is."""

    tokens: int = 4096
    hidden: int = 2048
    vocabulary: int = 58498
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
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


def make_inputs(size: LogpsProblem) -> Inputs:
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

    def backward(self) -> tuple[Tensor, ...]:
        """The gradients of the leaves."""
        return torch.autograd.grad(self.value, self.leaves, self.upstream.to(self.value.dtype))


def forward(side: str, inputs: Inputs) -> Held:
    """The forward pass of a side; not of `products`, which has none.

    Raises:
        ImportError: the side's package is not installed.
    """
    head = Head(inputs.weight_VD, inputs.bias_V)
    logps: dict[str, Callable[[Inputs], Tensor]] = {
        "ours": lambda x: token_logps(x.hidden_TD, head, x.targets_T),
        "eager": lambda x: eager_logps(x.hidden_TD, head, x.targets_T),
        "chunked": lambda x: chunked_logps(x.hidden_TD, head, x.targets_T),
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

    return lambda number: forward(side, inputs).backward()


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
        return torch.mm(logits_TV, weight_VD, out=first)

    return work


def peak_memory(side: str, problem: LogpsProblem) -> dict[str, float]:
    """MiB beyond the inputs of one forward and backward pass in this process, after a tiny one.

    The peak is without the returned gradients; `held` is what lives between the passes. On a CPU this is
    resident memory: the kernel's own high-water mark, set back when the inputs lie ready and every library
    has been used once.
    """
    tiny = msgspec.structs.replace(problem, tokens=2 * ROW, hidden=32, vocabulary=300)
    forward(side, make_inputs(tiny)).backward()
    inputs = make_inputs(problem)
    on_gpu = inputs.hidden_TD.is_cuda
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    held: Callable[[], int] = torch.cuda.memory_allocated if on_gpu else lambda: _status("VmRSS")
    most: Callable[[], int] = torch.cuda.max_memory_allocated if on_gpu else lambda: _status("VmHWM")
    before = held()
    between = forward(side, inputs)
    after_forward = held()
    gradients = between.backward()
    if on_gpu:
        torch.cuda.synchronize()
    returned = sum(one.nbytes for one in gradients)
    return {"peak MiB": (most() - before - returned) / 2**20, "held MiB": (after_forward - before) / 2**20}


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
