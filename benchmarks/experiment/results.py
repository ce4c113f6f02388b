"""What an experiment has found so far, as `benchmarks/results/experiment.json` holds it.

Fields that end in `_ci` are the bounds of the 95% interval of the field without it (`statistics.py`); what
cannot be said yet is null. Earlier files have fields beside these, which nothing reads.
"""

from __future__ import annotations

from benchmarks.speed.bench import Machine
from engine.records import Record

Bounds = tuple[float, float]


class SeedShares(Record):
    """Shares of right answers under one seed."""

    und: float
    gen: float


class Round(Record):
    """A round of a row; round 0 is the base."""

    round: int
    seeds: tuple[int, ...]
    """Those that are in the numbers; none of the base, which has no training."""
    items: int
    und: float
    und_ci: Bounds
    gen: float
    gen_ci: Bounds
    gap: float
    gap_ci: Bounds
    by_seed: dict[str, SeedShares]
    und_gain: float | None = None
    """Over the base, as all of these; null for the base."""
    und_gain_ci: Bounds | None = None
    gen_gain: float | None = None
    gen_gain_ci: Bounds | None = None
    gap_cut: float | None = None
    """1 - gap / the base's gap."""
    gap_cut_ci: Bounds | None = None


class RowResult(Record):
    """A row of the grid."""

    name: str
    title: str
    group: str
    default: bool
    complete: bool
    """Whether every seed has every round."""
    seeds: tuple[int, ...]
    """That the grid asks for."""
    settings: dict[str, object]
    """The row's tree laid over the defaults."""
    rounds: tuple[Round, ...]
    """Those that have been measured under at least one seed, the base first."""
    looks: int = 0
    """At the evaluation split, where a results file counts them."""


class Results(Record):
    """The file."""

    split: str
    machine: Machine
    rows: tuple[RowResult, ...]
