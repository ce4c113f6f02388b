"""Random log-prob problems and their answers in float64.

Legend: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from train.logps.head import Head, eager_logps


class Problem(NamedTuple):
    """Inputs that want gradients, targets, and d loss / d log p."""

    hidden: Tensor
    head: Head
    targets: Tensor
    upstream: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        return [one for one in (self.hidden, *self.head) if one is not None]

    def to(self, dtype: torch.dtype) -> Problem:
        leaves = [one.detach().to(dtype).requires_grad_() for one in self.leaves]
        return Problem(leaves[0], Head(*leaves[1:]), self.targets, self.upstream)


def problem(
    tokens: int,
    vocabulary: int,
    dtype: torch.dtype,
    seed: int = 0,
    scale: float = 1.0,
    bias: bool = True,
    width: int = 24,
) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    hidden, weight = draw(tokens, width) * scale, draw(vocabulary, width)
    head = Head(weight, draw(vocabulary) if bias else None)
    return Problem(hidden, head, targets, draw(tokens).float()).to(dtype)


def run(function, values: Problem, **kwargs) -> list[Tensor]:
    """Log-probs, then gradients of hidden states, weight and, where there is one, bias."""
    logp = function(values.hidden, values.head, values.targets, **kwargs)
    gradients = torch.autograd.grad(logp, values.leaves, values.upstream.to(logp.dtype))
    return [logp.detach(), *gradients]


def exact(values: Problem) -> list[Tensor]:
    return run(eager_logps, values.to(torch.float64))


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())
