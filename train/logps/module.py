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
        """With `codes`, targets among them are normalised over the codes alone."""
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self._codes = codes

    def forward(self, hidden_TD: Tensor, targets_T: Tensor) -> Tensor:
        """log p(target), [T] float32."""
        head = Head(self.weight, self.bias)
        if self._codes is None:
            return token_logps(hidden_TD, head, targets_T)
        coded_T = self._codes.holds(targets_T)
        if not coded_T.any():
            return token_logps(hidden_TD, head, targets_T)
        if coded_T.all():
            return token_logps(hidden_TD, head, targets_T, self._codes)
        codes = token_logps(hidden_TD[coded_T], head, targets_T[coded_T], self._codes)
        words = token_logps(hidden_TD[~coded_T], head, targets_T[~coded_T])
        full_T = torch.zeros(targets_T.shape, dtype=codes.dtype, device=codes.device)
        return full_T.masked_scatter(coded_T, codes).masked_scatter(~coded_T, words)
