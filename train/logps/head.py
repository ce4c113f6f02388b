"""The language head as plain tensors, the type of its sums, and the log-probs in plain torch operations.

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


def eager_logps(hidden_TD: Tensor, head: Head, targets_T: Tensor) -> Tensor:
    """As `dispatch.token_logps`, kept to test it against; holds T x V values for the backward pass."""
    wide = accumulation_dtype(hidden_TD)
    logits_TV = hidden_TD.to(wide) @ head.weight_VD.to(wide).T
    if head.bias_V is not None:
        logits_TV = logits_TV + head.bias_V.to(wide)
    return logits_TV.log_softmax(-1).gather(-1, targets_T[:, None])[:, 0]
