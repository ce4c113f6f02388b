"""Pair-DPO's two joins of two margins, their gradients and their stability."""

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
from train.loss import Dpo, Side, batch_loss, dpo, pair_dpo

LOGP = st.floats(-400, 0, width=32)
YES, NO = torch.tensor([True]), torch.tensor([False])


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


def of_margin(margin: Tensor) -> Dpo:
    return Dpo(loss_P=-torch.nn.functional.logsigmoid(margin), margin_P=margin)


def side(win: Tensor, lose: Tensor, has: Tensor = YES, reference: float = -10.0) -> Side:
    stored = torch.full_like(win, reference).detach()
    return Side(win, lose, stored, stored, torch.full_like(stored, 5.0), has)


@given(LOGP, LOGP, LOGP, LOGP)
def test_the_loss_is_minus_log_sigmoid_of_the_scaled_difference(
    a: float, b: float, c: float, d: float
) -> None:
    result = dpo(*(torch.tensor([v], dtype=torch.float64) for v in (a, b, c, d)), beta=0.2)
    margin = 0.2 * ((a - c) - (b - d))
    assert result.margin_P.item() == pytest.approx(margin, abs=1e-9)
    wanted = math.log1p(math.exp(-margin)) if margin > -30 else -margin
    assert result.loss_P.item() == pytest.approx(wanted, abs=1e-9)


@given(st.floats(-1000, 1000, width=32), st.floats(-1000, 1000, width=32))
def test_sum_pushes_both_margins_up_with_finite_gradients(first: float, second: float) -> None:
    captions, images = tensor(first), tensor(second)
    pair_dpo(of_margin(captions), of_margin(images), YES, YES, "sum").loss_P.sum().backward()
    for margin in (captions, images):
        assert margin.grad is not None
        assert -1.0 <= margin.grad.item() <= 0.0


def test_sum_is_finite_where_log_of_sigmoid_is_not() -> None:
    margin = tensor(-90.0)
    naive = -torch.log(torch.sigmoid(tensor(-90.0 * 2)))
    assert not naive.isfinite()
    loss = pair_dpo(of_margin(margin), of_margin(margin), YES, YES, "sum").loss_P
    loss.sum().backward()
    assert loss.item() == pytest.approx(180.0)
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(-2.0)


def test_product_has_exactly_no_gradient_while_both_margins_are_zero() -> None:
    win, lose = tensor(-7.0), tensor(-7.0)
    two = dpo(win, lose, win.detach(), lose.detach(), beta=0.2)
    pair_dpo(two, two, YES, YES, "product").loss_P.sum().backward()
    assert win.grad is not None
    assert lose.grad is not None
    assert win.grad.item() == 0.0
    assert lose.grad.item() == 0.0


@given(st.floats(0.1, 5), st.floats(0.1, 5))
def test_product_rewards_two_negative_margins_as_much_as_two_positive_ones(a: float, b: float) -> None:
    up = pair_dpo(of_margin(tensor(a)), of_margin(tensor(b)), YES, YES, "product").loss_P
    down = pair_dpo(of_margin(tensor(-a)), of_margin(tensor(-b)), YES, YES, "product").loss_P
    assert up.item() == down.item() < math.log(2)


@given(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32))
def test_und_and_gen_are_sum_with_one_weight_at_zero(first: float, second: float) -> None:
    captions, images = of_margin(tensor(first)), of_margin(tensor(second))
    for objective, weights in (("und", (1.0, 0.0)), ("gen", (0.0, 1.0))):
        alone = pair_dpo(captions, images, YES, YES, objective)
        weighted = pair_dpo(captions, images, YES, YES, "sum", *weights)
        assert torch.equal(alone.loss_P, weighted.loss_P)


def test_a_preference_with_one_side_contributes_that_side_to_sum_and_nothing_to_product() -> None:
    captions, images = of_margin(tensor(1.0)), of_margin(tensor(-2.0))
    joined = pair_dpo(captions, images, YES, NO, "sum")
    assert torch.equal(joined.loss_P, captions.loss_P)
    assert joined.counted_P.all()
    product = pair_dpo(captions, images, YES, NO, "product")
    assert product.loss_P.item() == 0.0
    assert not product.counted_P.any()


def test_a_batch_is_the_mean_over_the_preferences_that_contribute() -> None:
    win, lose = tensor(-8.0, -8.0, -8.0), tensor(-12.0, -12.0, -12.0)
    has_captions, has_images = torch.tensor([True, True, False]), torch.tensor([True, False, False])
    config = TrainConfig(objective="product")
    loss = batch_loss(side(win, lose, has_captions), side(win, lose, has_images), config)
    assert loss.counted_P.tolist() == [True, False, False]
    assert loss.total.item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.64))))


def test_batches_average_losses_and_never_sum_log_probs_over_pairs() -> None:
    """The official script adds log-probs over the batch before its one sigmoid."""
    win, lose = tensor(-5.0, -25.0), tensor(-15.0, -5.0)
    one = batch_loss(side(win, lose, YES.expand(2)), side(win, lose, NO.expand(2)), TrainConfig())
    margins = 0.2 * (win - lose)
    assert one.total.item() == pytest.approx(-torch.nn.functional.logsigmoid(margins).mean().item())


def test_the_anchor_adds_the_winners_negative_log_likelihood_per_token() -> None:
    win, lose = tensor(-8.0), tensor(-12.0)
    plain = batch_loss(side(win, lose), side(win, lose), TrainConfig()).total
    config = TrainConfig(caption_anchor=0.5, image_anchor=0.25)
    anchored = batch_loss(side(win, lose), side(win, lose), config)
    assert anchored.total.item() - plain.item() == pytest.approx(0.75 * 8.0 / 5.0)
    assert torch.equal(anchored.loss_P, batch_loss(side(win, lose), side(win, lose), TrainConfig()).loss_P)


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
    result = dpo(*sums, beta=beta)
    assert result.margin_P.item() == pytest.approx(beta * float(stored[f"fixed_delta_{kind}"]), abs=2e-5)
    assert result.loss_P.item() == pytest.approx(float(stored[f"fixed_dpo_loss_{kind}"]), abs=2e-5)
