"""The twin of the other versions in plain torch operations, kept to test them against.

Legend: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from train.logps.head import Head, accumulation_dtype


def eager_logps(hidden_TD: Tensor, head: Head, targets_T: Tensor) -> Tensor:
    """As `dispatch.token_logps`; holds T x V values for the backward pass."""
    wide = accumulation_dtype(hidden_TD)
    logits_TV = hidden_TD.to(wide) @ head.weight_VD.to(wide).T
    if head.bias_V is not None:
        logits_TV = logits_TV + head.bias_V.to(wide)
    return logits_TV.log_softmax(-1).gather(-1, targets_T[:, None])[:, 0]
