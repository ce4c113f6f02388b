"""The language head as plain tensors, and the type of its sums.

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


def accumulation_dtype(hidden: Tensor) -> torch.dtype:
    """In what sums run: float32, or float64 for float64 inputs."""
    return torch.promote_types(hidden.dtype, torch.float32)
