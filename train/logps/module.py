"""The head's log-probs as a module that a sharded trainer can gather.

Legend: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.logps.dispatch import token_logps
from train.logps.head import Head, Span


class HeadLogps(nn.Module):
    """`token_logps` as a module that owns the head's parameters.

    A sharded trainer gathers a module's own parameters around its forward and backward passes. Reading
    `lm_head.weight` from outside would find an empty shard; here the parameters are shared with the head,
    as tied weights are, and are gathered when this module runs.
    """

    def __init__(self, head: nn.Linear, codes: Span | None = None) -> None:
        """`codes` are the ids that `forward` may normalise over alone."""
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self._codes = codes

    def forward(self, hidden_TD: Tensor, targets_T: Tensor, codes: int = 0) -> Tensor:
        """log p(target), [T] float32; the last `codes` targets are normalised over the codes alone."""
        head, words = Head(self.weight, self.bias), len(targets_T) - codes
        if not codes:
            return token_logps(hidden_TD, head, targets_T)
        if not words:
            return token_logps(hidden_TD, head, targets_T, self._codes)
        told = token_logps(hidden_TD[:words], head, targets_T[:words])
        shown = token_logps(hidden_TD[words:], head, targets_T[words:], self._codes)
        return torch.cat((told, shown))
