"""Intervals over items and seeds: what they equal where that is known, and how often they hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from benchmarks.experiment.statistics import Array, Interval, crossed, cut, pseudo
from curate.evaluation.clustered import Ratio, contrast, ratio

numbers = st.floats(-100, 100, allow_nan=False, width=32)
tables = arrays.arrays(
    float, st.tuples(st.integers(1, 4), st.integers(2, 12)), elements=numbers, fill=st.nothing()
)


def ends(one: Interval) -> tuple[float, float]:
    return one.low, one.high


@given(tables)
def test_an_interval_holds_its_value_which_is_the_mean(values: Array) -> None:
    found = crossed(values)
    assert found.value == pytest.approx(values.mean(), abs=1e-9)
    assert found.low <= found.value <= found.high


@given(tables, st.floats(0.1, 10), numbers)
def test_intervals_move_and_stretch_with_the_values(values: Array, scale: float, shift: float) -> None:
    before, after = crossed(values), crossed(scale * values + shift)
    for one, other in zip(ends(before), ends(after), strict=True):
        assert other == pytest.approx(scale * one + shift, abs=1e-4 * (1 + abs(shift)))


@given(tables)
def test_the_order_of_items_and_seeds_does_not_matter(values: Array) -> None:
    turned = values[::-1, ::-1]
    assert ends(crossed(turned)) == pytest.approx(ends(crossed(values)), abs=1e-6)


@given(arrays.arrays(float, st.integers(2, 30), elements=numbers, fill=st.nothing()))
def test_one_seed_has_the_interval_of_clustered_items(values: Array) -> None:
    found = crossed(values)
    known = ratio(values, [1.0] * len(values))
    half = stats.t.ppf(0.975, len(values) - 1) * known.se
    assert found.high - found.value == pytest.approx(half, abs=1e-6)


@given(arrays.arrays(float, st.integers(2, 12), elements=numbers, fill=st.nothing()), st.integers(2, 4))
def test_seeds_that_agree_in_every_item_add_nothing(values: Array, count: int) -> None:
    assert ends(crossed(np.tile(values, (count, 1)))) == pytest.approx(ends(crossed(values)), abs=1e-6)


def test_seeds_that_differ_alone_have_the_interval_of_their_means() -> None:
    seeds = np.array([0.1, 0.2, 0.6])
    found = crossed(np.repeat(seeds[:, None], 50, 1))
    half = stats.t.ppf(0.975, 2) * seeds.std(ddof=1) / 3**0.5
    assert found.high - found.value == pytest.approx(half)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=2, max_size=20))
def test_pseudo_values_give_the_share_and_its_clustered_error(rows: list[tuple[int, int]]) -> None:
    asked = np.array([count for _, count in rows], float)
    rights = np.array([min(right, count) for right, count in rows], float)
    values = pseudo(rights, asked)
    known = ratio(rights, asked)
    assert values.shape == (1, len(rows))
    assert values.mean() == pytest.approx(known.value, abs=1e-9)
    assert values.std(ddof=1) / len(rows) ** 0.5 == pytest.approx(known.se, abs=1e-9)


def test_a_difference_of_pseudo_values_is_the_paired_contrast() -> None:
    rng = np.random.default_rng(1)
    asked = rng.integers(1, 5, 40).astype(float)
    first, second = rng.binomial(asked.astype(int), 0.5), rng.binomial(asked.astype(int), 0.8)
    known = contrast(
        (1.0, Ratio(sums=tuple(second), counts=tuple(asked))),
        (-1.0, Ratio(sums=tuple(first), counts=tuple(asked))),
    )
    moved = pseudo(second, asked) - pseudo(first, asked)
    assert moved.mean() == pytest.approx(known.value)
    assert moved.std(ddof=1) / 40**0.5 == pytest.approx(known.se)


def sample(rng: np.random.Generator, seeds: int, items: int, parts: tuple[float, float, float]) -> Array:
    """A table with these standard deviations of items, seeds and the rest."""
    a, b, e = parts
    return (
        a * rng.standard_normal(items)[None, :]
        + b * rng.standard_normal(seeds)[:, None]
        + e * rng.standard_normal((seeds, items))
    )


@pytest.mark.parametrize(
    "parts", [(0.2, 0.0, 0.3), (0.2, 0.01, 0.3), (0.2, 0.05, 0.3), (0.0, 0.02, 0.3), (0.3, 0.1, 0.05)]
)
def test_intervals_of_three_seeds_hold_in_about_95_of_100_cases(parts: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    hits = [
        found.low <= 0 <= found.high for found in (crossed(sample(rng, 3, 120, parts)) for _ in range(600))
    ]
    assert 0.92 <= np.mean(hits) <= 0.99


@pytest.mark.parametrize("seed_part", [0.0, 0.02])
def test_intervals_of_the_cut_hold_in_about_95_of_100_cases(seed_part: float) -> None:
    """Items are as hard before as after, questions are answered right or wrong, and the base is measured
    once."""
    rng, hits = np.random.default_rng(2), []
    asked = np.full(150, 8.0)
    for _ in range(400):
        hardness = 0.12 * rng.standard_normal(150)
        moved = seed_part * rng.standard_normal(3)[:, None]
        und, before = (rng.binomial(8, np.clip(mean + hardness, 0, 1)) for mean in (0.85, 0.55))
        after = rng.binomial(8, np.clip(0.70 + hardness[None, :] + moved, 0, 1))
        values = pseudo(und, asked)
        found = cut(values - pseudo(after, asked), values - pseudo(before, asked))
        assert found is not None
        hits.append(found.low <= 0.5 <= found.high)
    assert 0.92 <= np.mean(hits) <= 0.985


def test_a_gap_that_was_halved_is_cut_by_half() -> None:
    before = np.linspace(0.2, 0.4, 30)[None, :]
    found = cut(before / 2, before)
    assert found is not None
    assert found.value == pytest.approx(0.5)
    assert ends(found) == pytest.approx((0.5, 0.5))


@given(st.floats(-1, 0.02))
@settings(max_examples=20)
def test_there_is_no_cut_of_a_gap_that_is_not_clearly_there(mean: float) -> None:
    before = mean + np.linspace(-1, 1, 30)[None, :]
    assert cut(before, before) is None
