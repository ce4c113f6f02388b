"""DPO of one side, and a batch's loss: means, warm-up, and the reference implementation's terms."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from train.config import TrainConfig
from train.losses.loss import PairLogps, batch_loss, dpo_margin
from train.losses.objectives import preference_loss

LOGP = st.floats(-400, 0, width=32)
YES, NO = torch.tensor([True]), torch.tensor([False])


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


def logps(win: Tensor, lose: Tensor, has: Tensor = YES, reference: float = -10.0) -> PairLogps:
    stored = torch.full_like(win, reference).detach()
    return PairLogps(win, lose, stored, stored, has)


@given(LOGP, LOGP, LOGP, LOGP)
def test_the_loss_is_minus_log_sigmoid_of_the_scaled_difference(
    a: float, b: float, c: float, d: float
) -> None:
    found_P = dpo_margin(*(torch.tensor([v], dtype=torch.float64) for v in (a, b, c, d)), beta=0.2)
    margin = 0.2 * ((a - c) - (b - d))
    assert found_P.item() == pytest.approx(margin, abs=1e-9)
    wanted = math.log1p(math.exp(-margin)) if margin > -30 else -margin
    assert preference_loss(found_P).item() == pytest.approx(wanted, abs=1e-9)


def test_a_batch_is_the_mean_over_the_preferences_that_contribute() -> None:
    win, lose = tensor(-8.0, -8.0, -8.0), tensor(-12.0, -12.0, -12.0)
    has_captions, has_images = torch.tensor([True, True, False]), torch.tensor([True, False, False])
    config = TrainConfig(objective="product")
    loss = batch_loss(logps(win, lose, has_captions), logps(win, lose, has_images), config)
    assert loss.counted_P.tolist() == [True, False, False]
    assert loss.total.item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.64))))


def test_batches_average_losses_and_never_sum_log_probs_over_pairs() -> None:
    """The official script adds log-probs over the batch before its one sigmoid."""
    win, lose = tensor(-5.0, -25.0), tensor(-15.0, -5.0)
    one = batch_loss(logps(win, lose, YES.expand(2)), logps(win, lose, NO.expand(2)), TrainConfig())
    margins = 0.2 * (win - lose)
    assert one.total.item() == pytest.approx(-torch.nn.functional.logsigmoid(margins).mean().item())


@pytest.mark.parametrize("case", ["case3a_dpo_b1", "case3b_dpo_b2"])
@pytest.mark.parametrize(("kind", "rows"), [("t2i", "t2i_per_row"), ("mmu", "mmu_per_row")])
def test_golden_losses_follow_from_the_golden_log_probs(
    golden: Path, case: str, kind: str, rows: str
) -> None:
    """The reference sums a batch before its sigmoid; given that sum, our loss is its loss."""
    stored = np.load(golden / f"{case}.npz")
    beta = json.loads((golden / "cases.json").read_text())[case]["beta"]
    sums = [
        torch.from_numpy(stored[f"derived_{rows}_{which}"]).double().sum(0, keepdim=True)
        for which in ("win_policy", "lose_policy", "win_reference", "lose_reference")
    ]
    margin = dpo_margin(*sums, beta=beta)
    assert margin.item() == pytest.approx(beta * float(stored[f"fixed_delta_{kind}"]), abs=2e-5)
    assert preference_loss(margin).item() == pytest.approx(float(stored[f"fixed_dpo_loss_{kind}"]), abs=2e-5)
