"""The language head as plain tensors, and as a module that a sharded trainer can gather.

Legend: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Head(NamedTuple):
    """Makes logits of hidden states: hidden @ weight.T + bias. A tied head holds the embedding's weight."""

    weight_VD: Tensor
    bias_V: Tensor | None = None


class Span(NamedTuple):
    """The ids from `start` up to, not including, `stop`: the only ones that a softmax runs over."""

    start: int
    stop: int

    def holds(self, ids: Tensor) -> Tensor:
        """Boolean, True where an id lies within."""
        return (ids >= self.start) & (ids < self.stop)


def whole(head: Head) -> Span:
    """All ids of a head."""
    return Span(0, len(head.weight_VD))


def accumulation_dtype(hidden: Tensor) -> torch.dtype:
    """In what sums run: float32, or float64 for float64 inputs."""
    return torch.promote_types(hidden.dtype, torch.float32)
