"""Ratios over items, with standard errors clustered by item: what belongs to one item is not independent."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from engine.records import Record


class Estimate(Record):
    """A share or a mean."""

    value: float
    """NaN where nothing was counted."""
    se: float
    count: float
    """What it is a share of, or a mean over."""


def ratio(sums: Iterable[float], counts: Iterable[float]) -> Estimate:
    """The sum over items of `sums` by that of `counts`, with the linearised error of such a ratio."""
    upper, lower = np.fromiter(sums, float), np.fromiter(counts, float)
    total = lower.sum()
    if total == 0:
        return Estimate(value=float("nan"), se=float("nan"), count=0)
    value = upper.sum() / total
    items = max(2, len(lower))
    se = np.sqrt(((upper - value * lower) ** 2).sum() * items / (items - 1)) / total
    return Estimate(value=float(value), se=float(se), count=float(total))


def mean(values: Iterable[float]) -> Estimate:
    """The mean of one value an item."""
    given = [*values]
    return ratio(given, [1.0] * len(given))
