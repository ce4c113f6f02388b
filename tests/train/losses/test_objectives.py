"""The ways to join two margins: values, gradients, limits and where they lead."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from train.config import Objective, TrainConfig
from train.losses.objectives import OBJECTIVES, Margins, PairLoss, pair_dpo, softmin

YES, NO = torch.tensor([True]), torch.tensor([False])
MARGIN = st.floats(-50, 50, width=32)
ANY = st.floats(-1e4, 1e4, width=32)
JOINT = ("sum", "softmin")
"""Objectives of both sides that can be trained from their first step."""


def joined(first: Tensor, second: Tensor, has: tuple[Tensor, Tensor] = (YES, YES), **settings) -> PairLoss:
    return pair_dpo(Margins(first, second, *has), TrainConfig(**settings))


def loss(first: float, second: float, **settings) -> float:
    margins = (torch.tensor([value], dtype=torch.float64) for value in (first, second))
    return joined(*margins, **settings)[0].item()


def slopes(
    first: float, second: float, dtype: torch.dtype = torch.float64, **settings
) -> tuple[float, float]:
    margins = [torch.tensor([value], dtype=dtype, requires_grad=True) for value in (first, second)]
    joined(*margins, **settings)[0].sum().backward()
    one, other = (0.0 if margin.grad is None else margin.grad.item() for margin in margins)
    return one, other


def plain(margin: float) -> float:
    return float(-torch.nn.functional.logsigmoid(torch.tensor(margin, dtype=torch.float64)))


def test_every_objective_has_its_function() -> None:
    assert set(OBJECTIVES) == set(get_args(Objective))


@pytest.mark.parametrize("objective", JOINT)
@given(first=ANY, second=ANY)
def test_a_trainable_objective_never_pushes_a_margin_down_and_is_finite(
    objective: str, first: float, second: float
) -> None:
    for slope in slopes(first, second, torch.float32, objective=objective):
        assert math.isfinite(slope)
        assert slope <= 0.0
    assert math.isfinite(loss(first, second, objective=objective))


@pytest.mark.parametrize("objective", JOINT)
@given(first=MARGIN, second=MARGIN)
def test_a_trainable_objective_is_steep_wherever_a_margin_is_negative(
    objective: str, first: float, second: float
) -> None:
    if min(first, second) <= 0:
        assert sum(slopes(first, second, objective=objective)) < -0.15


def test_sum_is_finite_where_log_of_sigmoid_is_not() -> None:
    assert not torch.log(torch.sigmoid(torch.tensor(-180.0))).isfinite()
    assert loss(-90.0, -90.0) == pytest.approx(180.0)
    assert slopes(-90.0, -90.0, torch.float32) == pytest.approx((-1.0, -1.0))


def test_product_has_exactly_no_gradient_while_both_margins_are_zero() -> None:
    assert slopes(0.0, 0.0, objective="product") == (0.0, 0.0)


@given(st.floats(0.1, 5), st.floats(0.1, 5))
def test_product_rewards_two_negative_margins_as_much_as_two_positive_ones(a: float, b: float) -> None:
    assert loss(a, b, objective="product") == loss(-a, -b, objective="product") < math.log(2)
    assert min(slopes(-a, -b, objective="product")) > 0


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_descent_on_product_keeps_the_sign_of_the_margins_sum(first: float, second: float) -> None:
    """The line a + b = 0 parts the pairs that product lifts from those that it pushes down."""
    start = first + second
    if abs(start) < 1e-3:
        return
    for _ in range(50):
        one, other = slopes(first, second, objective="product")
        first, second = first - 0.05 * one, second - 0.05 * other
    assert (first + second) / start >= 1.0


@given(MARGIN, MARGIN)
def test_und_and_gen_are_sum_with_one_weight_at_zero(first: float, second: float) -> None:
    assert loss(first, second, objective="und") == loss(first, second, image_weight=0.0)
    assert loss(first, second, objective="gen") == loss(first, second, caption_weight=0.0)
    half = loss(first, second, objective="gen", image_weight=0.5)
    assert half == loss(first, second, caption_weight=0.0, image_weight=0.5)
    assert half == pytest.approx(0.5 * loss(first, second, objective="gen"))


@pytest.mark.parametrize("objective", JOINT)
@given(margin=MARGIN)
def test_a_preference_with_one_side_has_that_sides_dpo(objective: str, margin: float) -> None:
    here, absent = torch.tensor([margin], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for first, second, has in ((here, absent, (YES, NO)), (absent, here, (NO, YES))):
        loss_P, counted_P = joined(first, second, has, objective=objective)
        assert loss_P.item() == plain(margin)
        assert counted_P.all()


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_preference_without_what_the_objective_needs_contributes_nothing(objective: str) -> None:
    zero = torch.zeros(1)
    loss_P, counted_P = joined(zero, zero, (NO, NO), objective=objective)
    assert loss_P.item() == 0.0
    assert not counted_P.any()
    loss_P, counted_P = joined(zero + 1.0, zero, (YES, NO), objective=objective)
    assert bool(counted_P) == (objective not in ("product", "gen"))
    assert bool(loss_P) == (objective not in ("product", "gen"))


@given(ANY, ANY)
def test_the_soft_minimum_lies_between_minimum_and_mean_whichever_way_round(a: float, b: float) -> None:
    first, second = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    found = softmin(first, second).item()
    slack = 1e-12 * max(abs(a), abs(b), 1.0)
    assert min(a, b) - slack <= found <= (a + b) / 2 + slack
    assert found == softmin(second, first).item()


@given(MARGIN, MARGIN, st.floats(0.01, 5))
def test_the_soft_minimum_rises_with_each_margin(a: float, b: float, more: float) -> None:
    def at(first: float, second: float) -> float:
        pair = (torch.tensor(value, dtype=torch.float64) for value in (first, second))
        return softmin(*pair).item()

    assert at(a + more, b) >= at(a, b)
    assert at(a, b + more) >= at(a, b)


@given(MARGIN, MARGIN)
def test_softmin_is_one_winner_against_two_losers(a: float, b: float) -> None:
    wanted = math.log1p((math.exp(-a) + math.exp(-b)) / 2)
    assert loss(a, b, objective="softmin") == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@given(MARGIN, MARGIN)
def test_softmin_gives_the_weaker_side_the_larger_of_two_weights_that_sum_to_at_most_one(
    a: float, b: float
) -> None:
    one, other = slopes(a, b, objective="softmin")
    assert -1.0 - 1e-9 <= one + other <= 0.0
    if a < b:
        assert one <= other


def test_softmin_at_zero_pulls_both_sides_with_a_quarter_each() -> None:
    assert slopes(0.0, 0.0, objective="softmin") == (-0.25, -0.25)
