"""Measurements of the same held-out items, brought into the same order.

Legend: S seeds, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.experiment.statistics import Array, pseudo
from curate.evaluation.records import GapReport, ItemScore
from engine.errors import DataError


class Sides(NamedTuple):
    """Values whose means are the shares of right answers, [S, N]."""

    und: Array
    gen: Array

    @property
    def gap(self) -> Array:
        return self.und - self.gen


def aligned(reports: Sequence[GapReport]) -> list[Sides]:
    """Each report's values [1, N] on the items that all have, and were asked alike about.

    Raises:
        DataError: there are fewer than two.
    """
    tables = [{one.id: one for one in report.per_item} for report in reports]
    first, *others = tables
    ids = [name for name, one in first.items() if all(_alike(one, table.get(name)) for table in others)]
    if len(ids) < 2:
        raise DataError("measurements have fewer than two items in common; measure them under one setting")
    found = []
    for table in tables:
        items = [table[name] for name in ids]
        und, gen = (
            pseudo(np.array([[getattr(one, side) for one in items]], float), _asked(items, side))
            for side in ("und", "gen")
        )
        found.append(Sides(und, gen))
    return found


def _asked(items: Sequence[ItemScore], side: str) -> Array:
    return np.array([getattr(one, f"{side}_asked") for one in items], float)


def _alike(one: ItemScore, other: ItemScore | None) -> bool:
    return other is not None and (one.und_asked, one.gen_asked) == (other.und_asked, other.gen_asked)


def stacked(groups: Sequence[Sequence[GapReport]]) -> list[Sides]:
    """Groups of reports, one report a seed, as [S, N] each on the items that all have."""
    flat = aligned([report for group in groups for report in group])
    found, start = [], 0
    for group in groups:
        part = flat[start : start + len(group)]
        found.append(Sides(*(np.concatenate([getattr(one, side) for one in part]) for side in Sides._fields)))
        start += len(group)
    return found
