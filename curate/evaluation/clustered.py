"""Ratios over items, with standard errors clustered by item: what belongs to one item is not independent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.records import Record


class Estimate(Record):
    """A share or a mean."""

    value: float
    """NaN where nothing was counted."""
    se: float
    count: float
    """What it is a share of, or a mean over."""

    @property
    def clear(self) -> bool:
        """Whether it lies more than two standard errors from zero, rounding aside."""
        return abs(self.value) > 2 * self.se + 1e-9


class Ratio(Record):
    """Sums and counts of the same items: a share is the sum of the one by that of the other."""

    sums: tuple[float, ...]
    counts: tuple[float, ...]


def ratio(sums: Iterable[float], counts: Iterable[float]) -> Estimate:
    """The sum over items of `sums` by that of `counts`, with the linearised error of such a ratio."""
    one = Ratio(sums=tuple(sums), counts=tuple(counts))
    found = contrast((1.0, one))
    return Estimate(value=found.value, se=found.se, count=float(sum(one.counts)))


def mean(values: Iterable[float]) -> Estimate:
    """The mean of one value an item."""
    given = [*values]
    return ratio(given, [1.0] * len(given))


def contrast(*terms: tuple[float, Ratio]) -> Estimate:
    """A weighted sum of ratios over the same items in the same order; its count is that of the items.

    The error is that of the linearised sum, so what an item does to several of them alike cancels out.
    """
    value, moved = 0.0, np.zeros(len(terms[0][1].sums))
    for weight, one in terms:
        share, influences = linearised(one.sums, one.counts)
        value += weight * share
        moved = moved + weight * influences
    items = max(2, len(moved))
    se = float(np.sqrt((moved**2).sum() * items / (items - 1))) if not np.isnan(value) else float("nan")
    return Estimate(value=value, se=se, count=len(moved))


def linearised(sums: Sequence[float], counts: Sequence[float]) -> tuple[float, NDArray[np.float64]]:
    """A ratio, and how far each item moves it."""
    upper, lower = np.asarray(sums, float), np.asarray(counts, float)
    total = lower.sum()
    if total == 0:
        return float("nan"), np.zeros(len(upper))
    value = upper.sum() / total
    return float(value), (upper - value * lower) / total
