"""From the runs of a grid to its results.

Legend: S seeds, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import msgspec

from benchmarks.experiment.grid import Grid, Row
from benchmarks.experiment.results import Change, Kind, Results, Round, RowResult, Summary
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
    config = grid.tables(grid.default).eval
    measured = {row.name: _measurements(row, root, config) for row in grid.row}
    default = measured[grid.default.name]
    rows = tuple(_row(grid, row, measured[row.name], default) for row in grid.row)
    return Results(
        grid=grid.digest,
        split=config.split,
        machine=machine(),
        rows=rows,
        summary=_summary(grid.default, rows, config.split),
    )


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


def _row(
    grid: Grid, row: Row, measured: RowMeasurements | None, default: RowMeasurements | None
) -> RowResult:
    rounds: list[Round] = []
    if measured is not None:
        rounds = [_plain(0, {}, [measured.base], paired([[measured.base]])[0])]
        others = None if row.default else default
        rounds += [_round(number, measured, others) for number in sorted(measured.rounds)]
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


def _plain(number: int, by_seed: Measured, reports: Sequence[GapReport], shares: Shares) -> Round:
    """What a round has without others to compare it with."""
    kinds = sorted({kind for report in reports for kind in report.by_kind})
    return Round(
        round=number,
        seeds=tuple(by_seed),
        items=shares.und.shape[1],
        by_kind={
            kind: _kind([one.by_kind[kind] for one in reports if kind in one.by_kind]) for kind in kinds
        },
        by_seed={str(seed): _kind([one]) for seed, one in by_seed.items()},
        **_intervals(shares),
    )


def _intervals(shares: Shares) -> dict[str, Any]:
    """Both sides and their gap, each with its interval."""
    found = {side: crossed(getattr(shares, side)) for side in ("und", "gen", "gap")}
    values = {side: short(one.value) for side, one in found.items()}
    return values | {f"{side}_ci": bounds(one) for side, one in found.items()}


def _kind(groups: Sequence[object]) -> Kind:
    und, gen = (short(fmean(getattr(one, side) for one in groups)) for side in ("und", "gen"))
    return Kind(und=und, gen=gen)


def _round(number: int, measured: RowMeasurements, default: RowMeasurements | None) -> Round:
    by_seed = dict(sorted(measured.rounds[number].items()))
    now, base = paired([[*by_seed.values()], [measured.base]])
    und, gen = crossed(now.und - base.und), crossed(now.gen - base.gen)
    closed = cut(now.gap, base.gap)
    return msgspec.structs.replace(
        _plain(number, by_seed, [*by_seed.values()], now),
        und_gain=short(und.value),
        und_gain_ci=bounds(und),
        gen_gain=short(gen.value),
        gen_gain_ci=bounds(gen),
        gap_cut=short(closed.value) if closed else None,
        gap_cut_ci=bounds(closed) if closed else None,
        since_previous=_since(number, measured, by_seed),
        versus_default=_versus(by_seed, default.rounds.get(number) if default else None),
    )


def _since(number: int, measured: RowMeasurements, by_seed: Measured) -> Change | None:
    """Over the round before, under the seeds that have both."""
    if number == 1:
        return _change([*by_seed.values()], [measured.base])
    before = measured.rounds.get(number - 1, {})
    seeds = [seed for seed in by_seed if seed in before]
    return _change([by_seed[seed] for seed in seeds], [before[seed] for seed in seeds]) if seeds else None


def _versus(by_seed: Measured, default: Measured | None) -> Change | None:
    if not default or set(by_seed) != set(default):
        return None
    return _change([*by_seed.values()], [default[seed] for seed in by_seed])


def _change(after: Sequence[GapReport], before: Sequence[GapReport]) -> Change:
    """The first minus the second, which may be one measurement for all seeds."""
    now, then = paired([after, before])
    return Change(**_intervals(Shares(now.und - then.und, now.gen - then.gen)))


def _summary(row: Row, rows: Sequence[RowResult], split: str) -> Summary | None:
    found = next(one for one in rows if one.name == row.name)
    last = next((one for one in found.rounds if one.round == row.rounds), None)
    if last is None or last.und_gain is None:
        return None
    names = [name for name in Summary.__struct_fields__ if name.startswith(("und_", "gen_", "gap_"))]
    gains = {name: getattr(last, name) for name in names}
    return Summary(
        row=row.name, complete=found.complete, rounds=last.round, seeds=last.seeds, split=split, **gains
    )
