"""Summed log-probs of whole rows, as one module: what the policy and the reference both run.

Legend: R rows, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.models.showo import Showo
from train.batch import IGNORE, Rows
from train.config import ImageVocabulary
from train.logps.head import Span
from train.logps.module import HeadLogps


class RowLogps(nn.Module):
    """Show-o together with the log-probs of its labels.

    The log-probs are taken inside the module's forward pass, which is what lets a sharded trainer gather
    the head; see `HeadLogps`.
    """

    def __init__(self, model: Showo, image_vocabulary: ImageVocabulary = "full") -> None:
        """`image_vocabulary` as in `TrainConfig`; the labels of image rows are those that are codes."""
        super().__init__()
        self.model = model
        words = model.config.vocabulary
        codes = Span(words.code_offset, words.mask) if image_vocabulary == "codes" else None
        self.head_logps = HeadLogps(model.head, codes)

    def forward(
        self,
        ids_RT: Tensor,
        mask: Tensor,
        positions_RT: Tensor,
        labels_RT: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """Sum over the labels of each row of log p(label), [R] float32.

        mask [R, 1, T, T] boolean, True = may attend; labels are IGNORE where nothing is predicted;
        features as in `Rows`.
        """
        hidden_RTD = self.model(ids_RT, mask, positions_RT, features)
        labelled = labels_RT != IGNORE
        logp = self.head_logps(hidden_RTD[labelled], labels_RT[labelled])
        # Scattered into a full matrix and summed along it: unlike index_add, the same on every run.
        full_RT = torch.zeros(labels_RT.shape, dtype=logp.dtype, device=logp.device)
        return full_RT.masked_scatter(labelled, logp).sum(1)

    @torch.no_grad()
    def score(self, rows: Rows) -> Tensor:
        """`forward` without gradients, on the model's device; the result is on the CPU."""
        return self(*rows.to(self.head_logps.weight.device)).float().cpu()
