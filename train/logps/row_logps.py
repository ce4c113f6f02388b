"""Summed log-probs of whole rows, as one module: what the policy and the reference both run.

Legend: R rows, T tokens, N labels, D hidden; of `HeadLogps` alone, T labelled tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from engine.checkpoints.weights import load_model
from engine.models.showo import Showo
from train.data.batch import Rows, label_places
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


class RowLogps(nn.Module):
    """Show-o together with the log-probs of its labels.

    The log-probs are taken inside the module's forward pass, which is what lets a sharded trainer gather
    the head; see `HeadLogps`.
    """

    def __init__(self, model: Showo) -> None:
        super().__init__()
        self.model = model
        self.head_logps = HeadLogps(model.head)

    def forward(
        self,
        ids_RT: Tensor,
        mask: Tensor,
        positions_RT: Tensor,
        labels_RT: Tensor,
        places_N: Tensor | None = None,
        features: Tensor | None = None,
        seeing: Tensor | None = None,
    ) -> Tensor:
        """Sum over the labels of each row of log p(label), [R] float32; arguments as in `Rows`."""
        # The mask shuts out FlashAttention, but not SDPA's memory-efficient kernel, which takes it as a
        # padded bias and holds no scores. Unmasked calls, of texts and images apart, would gain little: at
        # 1.3B and 450 tokens attention is 3.5% of the products (4 T D a token and block, beside 24 D D).
        hidden_RTD = self.model(ids_RT, mask, positions_RT, features, seeing)
        if places_N is None:
            places_N = label_places(labels_RT)
        hidden_ND = hidden_RTD.flatten(0, 1).index_select(0, places_N)
        targets_N = labels_RT.flatten().index_select(0, places_N)
        logp_N = self.head_logps(hidden_ND, targets_N)
        # Copied into a full matrix and summed along it: unlike a sum by index, the same on every run.
        full = torch.zeros(labels_RT.numel(), dtype=logp_N.dtype, device=logp_N.device)
        return full.index_copy(0, places_N, logp_N).view(labels_RT.shape).sum(1)

    @torch.no_grad()
    def score(self, rows: Rows) -> Tensor:
        """`forward` without gradients, on the model's device; the result is on the CPU."""
        logps_R: Tensor = self(*rows.to(self.head_logps.weight.device))
        return logps_R.float().cpu()


def load_scorer(checkpoint: Path, dtype: str, device: torch.device) -> RowLogps:
    """The scorer of a checkpoint.

    Raises:
        CheckpointError: files are missing, or tensors do not fit the configuration.
    """
    return RowLogps(load_model(checkpoint, getattr(torch, dtype)).to(device))
