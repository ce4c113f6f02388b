"""The sides of the log-prob comparison: forward and backward of log p(target) to hidden, weight and bias.

Legend: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.records import Record
from train.logps.chunked import chunked_logps
from train.logps.dispatch import token_logps
from train.logps.head import Head, eager_logps

SideName = Literal["ours", "log_softmax", "liger", "cut_cross_entropy", "eager", "chunked"]
ROW = 256
"""Tokens of a row: the codes of an image."""


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
    """The state between the passes: log-probs, and what backward starts from."""

    logp_T: Tensor
    upstream_T: Tensor
    leaves: tuple[Tensor, ...]

    def backward(self) -> tuple[Tensor, ...]:
        """The gradients of the leaves."""
        return torch.autograd.grad(self.logp_T, self.leaves, self.upstream_T.to(self.logp_T.dtype))


def forward(side: SideName, inputs: Inputs) -> Held:
    """The forward pass of a side.

    Raises:
        ImportError: the side's package is not installed.
    """
    # cut-cross-entropy takes no bias.
    leaves = inputs.leaves[:2] if side == "cut_cross_entropy" else inputs.leaves
    return Held(SIDES[side](inputs), inputs.upstream_T, leaves)


def _full(x: Inputs) -> Tensor:
    logits_TV = F.linear(x.hidden_TD, x.weight_VD, x.bias_V)
    return F.log_softmax(logits_TV, -1).gather(-1, x.targets_T[:, None])[:, 0]


def _liger(x: Inputs) -> Tensor:
    from liger_kernel.chunked_loss.fused_linear_ppo import _ChunkedSelectiveLogProbFunction

    found: Any = _ChunkedSelectiveLogProbFunction.apply(
        x.hidden_TD, x.weight_VD, x.targets_T, x.bias_V, 1.0, 4096
    )
    return found  # type: ignore[no-any-return]


def _cut(x: Inputs) -> Tensor:
    from cut_cross_entropy import linear_cross_entropy

    kind = "cce" if x.hidden_TD.is_cuda else "torch_compile"
    loss_T: Tensor = linear_cross_entropy(x.hidden_TD, x.weight_VD, x.targets_T, reduction="none", impl=kind)
    return -loss_T


SIDES: dict[SideName, Callable[[Inputs], Tensor]] = {
    "ours": lambda x: token_logps(x.hidden_TD, Head(x.weight_VD, x.bias_V), x.targets_T),
    # On full logits, in the inputs' type, as the official script does.
    "log_softmax": _full,
    # Its chunked log-probs of given tokens.
    "liger": _liger,
    # Its torch.compile version on a CPU.
    "cut_cross_entropy": _cut,
    # Ours: full logits with float32 sums, and the version that needs no kernel.
    "eager": lambda x: eager_logps(x.hidden_TD, Head(x.weight_VD, x.bias_V), x.targets_T),
    "chunked": lambda x: chunked_logps(x.hidden_TD, Head(x.weight_VD, x.bias_V), x.targets_T),
}


def peak_memory(side: SideName, problem: LogpsProblem) -> float:
    """MiB beyond the inputs of one forward and backward pass in this process, after a tiny one.

    The peak is without the returned gradients. On a CPU this is resident memory: the kernel's own high-water
    mark, set back when the inputs lie ready and every library has been used once.
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
    gradients = forward(side, inputs).backward()
    if on_gpu:
        torch.cuda.synchronize()
    returned = sum(one.nbytes for one in gradients)
    return (most() - before - returned) / 2**20


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(peak_memory(cast("SideName", sys.argv[1]), msgspec.json.decode(sys.argv[2], type=LogpsProblem)))
