"""From the runs of a grid to its results.

Legend: S seeds, N items.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks.experiment.grid import Grid, Row
from benchmarks.experiment.results import Results, Round, RowResult, SeedShares
from benchmarks.experiment.statistics import Shares, bounds, crossed, cut, paired, short
from benchmarks.speed.bench import machine
from curate.evaluation.config import EvalConfig
from curate.evaluation.records import GapReport, read_gap

Measured = dict[int, GapReport]
"""Seed -> measurement."""


class RowMeasurements(NamedTuple):
    """What there is of a row; the base is the same under every seed."""

    base: GapReport
    rounds: dict[int, Measured]


def run_folder(root: Path, row: Row, seed: int) -> Path:
    """The folder of a row's `hermes run` under one seed of training."""
    return root / row.name / f"seed-{seed}"


def measurement(run: Path, number: int, config: EvalConfig) -> GapReport | None:
    """A round's measurement; None where there is none under these settings, item by item.

    Raises:
        DataError: it cannot be read.
    """
    found = read_gap(run / f"round-{number}" / "eval.json")
    return found if found and found.config == config and found.per_item else None


def collect(grid: Grid, root: Path) -> Results:
    """The results of a grid's rows from what is complete of them."""
    config = grid.settled(grid.default).eval
    rows = tuple(_row(grid, row, _measurements(row, root, config)) for row in grid.row)
    return Results(split=config.split, machine=machine(), rows=rows)


def _measurements(row: Row, root: Path, config: EvalConfig) -> RowMeasurements | None:
    """None where not even the base is measured."""
    bases: list[GapReport] = []
    rounds: dict[int, Measured] = {}
    for seed in row.runs:
        run = run_folder(root, row, seed)
        if base := measurement(run, 0, config):
            bases.append(base)
        for number in range(1, row.rounds + 1):
            if one := measurement(run, number, config):
                rounds.setdefault(number, {})[seed] = one
    return RowMeasurements(bases[0], rounds) if bases else None


def _row(grid: Grid, row: Row, measured: RowMeasurements | None) -> RowResult:
    rounds: list[Round] = []
    if measured is not None:
        rounds = [_plain(0, {}, paired([[measured.base]])[0])]
        rounds += [_round(number, measured) for number in sorted(measured.rounds)]
    complete = measured is not None and all(
        set(measured.rounds.get(number, {})) >= set(row.seeds) for number in range(1, row.rounds + 1)
    )
    return RowResult(
        name=row.name,
        title=row.title,
        group=row.group,
        default=row.default,
        complete=complete,
        seeds=row.seeds if row.rounds else (),
        settings=grid.tree(row),
        rounds=tuple(rounds),
    )


def _plain(number: int, by_seed: Measured, shares: Shares) -> Round:
    """What a round has without others to compare it with."""
    found = {side: crossed(getattr(shares, side)) for side in ("und", "gen", "gap")}
    values: dict[str, Any] = {side: short(one.value) for side, one in found.items()}
    values |= {f"{side}_ci": bounds(one) for side, one in found.items()}
    return Round(
        round=number,
        seeds=tuple(by_seed),
        items=shares.und.shape[1],
        by_seed={
            str(seed): SeedShares(und=short(one.und), gen=short(one.gen)) for seed, one in by_seed.items()
        },
        **values,
    )


def _round(number: int, measured: RowMeasurements) -> Round:
    by_seed = dict(sorted(measured.rounds[number].items()))
    now, base = paired([[*by_seed.values()], [measured.base]])
    und, gen = crossed(now.und - base.und), crossed(now.gen - base.gen)
    closed = cut(now.gap, base.gap)
    return msgspec.structs.replace(
        _plain(number, by_seed, now),
        und_gain=short(und.value),
        und_gain_ci=bounds(und),
        gen_gain=short(gen.value),
        gen_gain_ci=bounds(gen),
        gap_cut=short(closed.value) if closed else None,
        gap_cut_ci=bounds(closed) if closed else None,
    )
