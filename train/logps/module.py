"""The head's log-probs as a module that a sharded trainer can gather.

Legend: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from train.logps.dispatch import token_logps
from train.logps.head import Head


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
        return token_logps(hidden_TD, Head(self.weight, self.bias), targets_T)
