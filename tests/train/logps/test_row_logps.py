"""Row log-probs against log_softmax on full logits, and the codes' own normaliser.

Legend: R rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.checkpoints.weights import load_model
from engine.models.showo import Showo
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


def hidden_and_logits(model: Showo, rows: Rows) -> tuple[Tensor, Tensor]:
    hidden = model(rows.ids_RT, rows.mask, rows.positions_RT)
    return hidden, model.token_logits(hidden)


def summed(logits_RTV: Tensor, labels_RT: Tensor) -> Tensor:
    """As transformers' trainers do it: everywhere, then masked."""
    labelled = labels_RT != IGNORE
    safe = labels_RT.masked_fill(~labelled, 0)
    logp = torch.log_softmax(logits_RTV, -1).gather(2, safe[:, :, None])[:, :, 0]
    return (logp * labelled).sum(1)


def test_rows_sum_log_softmax_over_their_labels_and_so_do_gradients(checkpoint: Path, rows: Rows) -> None:
    scorer = RowLogps(load_model(checkpoint))
    _, logits = hidden_and_logits(scorer.model, rows)
    found, wanted = scorer(*rows), summed(logits, rows.labels_RT)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.tensor([1.0, -2.0, 0.5])
    parameters = list(scorer.model.parameters())
    gradients = torch.autograd.grad(found @ weights, parameters)
    for one, other in zip(gradients, torch.autograd.grad(wanted @ weights, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_codes_normalise_image_rows_over_the_codes_alone_and_leave_captions(
    checkpoint: Path, rows: Rows
) -> None:
    model = load_model(checkpoint)
    hidden, logits = hidden_and_logits(model, rows)
    start = model.config.vocabulary.code_offset
    wanted = summed(logits, rows.labels_RT)
    shifted = torch.where(rows.labels_RT == IGNORE, IGNORE, rows.labels_RT - start)
    wanted[1] = summed(model.code_logits(hidden[1:2]), shifted[1:2])[0]
    full, codes = RowLogps(model), RowLogps(model, "codes")
    torch.testing.assert_close(codes.score(rows), wanted.detach(), rtol=1e-5, atol=1e-5)
    assert full.score(rows)[1] < codes.score(rows)[1] - 1
    codes(*rows)[1].backward()
    gradient = model.head.weight.grad
    assert gradient is not None
    assert gradient[start : start + 32].any()
    assert not gradient[:start].any()
    assert not gradient[start + 32 :].any()


def test_the_sharded_policy_follows_the_setting(checkpoint: Path, rows: Rows) -> None:
    wanted = RowLogps(load_model(checkpoint), "codes").score(rows)
    config = TrainConfig(image_vocabulary="codes", steps=3, warmup=1, batch=1)
    with open_policy(config, checkpoint, persist=0) as policy:
        found = policy(rows)
        assert policy.step([-found.mean()], 0.0) > 0
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-5, atol=1e-5)
