"""Row log-probs against log_softmax on full logits.

Legend: R rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.checkpoints.weights import load_model
from train.config import TrainConfig
from train.data.batch import IGNORE, Layout, Rows
from train.distributed.policy import open_policy
from train.logps.row_logps import RowLogps

CODES = np.arange(9) * 3


@pytest.fixture
def rows(checkpoint: Path) -> Rows:
    """A caption, an image with five hidden codes, a shorter caption."""
    layout = Layout.load(checkpoint)
    return layout.stack(
        [
            layout.caption_row(range(9), (5, 6, 7)),
            layout.image_row("a red cube", CODES.tolist(), CODES % 2 == 0),
            layout.caption_row(range(9, 18), (8,)),
        ]
    )


def summed(logits_RTV: Tensor, labels_RT: Tensor) -> Tensor:
    """As transformers' trainers do it: everywhere, then masked."""
    labelled = labels_RT != IGNORE
    safe = labels_RT.masked_fill(~labelled, 0)
    logp = torch.log_softmax(logits_RTV, -1).gather(2, safe[:, :, None])[:, :, 0]
    return (logp * labelled).sum(1)


def test_rows_sum_log_softmax_over_their_labels_and_so_do_gradients(checkpoint: Path, rows: Rows) -> None:
    scorer = RowLogps(load_model(checkpoint))
    logits = scorer.model.token_logits(scorer.model(rows.ids_RT, rows.mask, rows.positions_RT))
    found, wanted = scorer(*rows), summed(logits, rows.labels_RT)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.tensor([1.0, -2.0, 0.5])
    parameters = list(scorer.model.parameters())
    gradients = torch.autograd.grad(found @ weights, parameters)
    for one, other in zip(gradients, torch.autograd.grad(wanted @ weights, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_sharded_policy_gives_the_same(checkpoint: Path, rows: Rows) -> None:
    wanted = RowLogps(load_model(checkpoint)).score(rows)
    config = TrainConfig(steps=3, warmup=1, batch_size=1)
    with open_policy(config, checkpoint, persist=0) as policy:
        found = policy(rows)
        assert policy.step([-found.mean()], 0.0) > 0
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-5, atol=1e-5)
