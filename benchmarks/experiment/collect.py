"""From the folders of an experiment to its results.

Legend: S seeds, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import msgspec

from benchmarks.experiment.cells import Base, Cell, Final, Measured
from benchmarks.experiment.estimate import seconds_of
from benchmarks.experiment.grid import EVALUATION, Grid, Row
from benchmarks.experiment.looks import Looks
from benchmarks.experiment.pairing import Sides, stacked
from benchmarks.experiment.planning import Plan
from benchmarks.experiment.results import (
    Bounds,
    Change,
    Kind,
    Results,
    Round,
    RowResult,
    Summary,
)
from benchmarks.experiment.sharing import measured_as, measurement
from benchmarks.experiment.stages import mean_seconds, pairs_of, training_of
from benchmarks.experiment.statistics import Interval, crossed, cut, short
from benchmarks.speed.timing import machine
from curate.evaluation.records import GapReport


class Measurements(NamedTuple):
    """What there is of a row: round -> seed -> report; the base under every seed alike."""

    base: GapReport
    rounds: dict[int, dict[int, GapReport]]


def collect(grid: Grid, plan: Plan, looks: Looks, final: bool) -> Results:
    """The results of a plan's rows from what is complete of them."""
    found = {row.name: _measurements(row, plan.measured[row.name]) for row in _rows(grid, plan)}
    default = found.get(grid.default.name)
    rows = tuple(
        _row(grid, row, found[row.name], plan.measured[row.name], None if row.default else default, looks)
        for row in _rows(grid, plan)
    )
    split = EVALUATION if final else grid.settled(grid.default).eval.split
    return Results(
        grid=grid.digest,
        split=split,
        machine=machine(),
        rows=rows,
        summary=_summary(grid.default, rows, split),
    )


def _rows(grid: Grid, plan: Plan) -> list[Row]:
    return [row for row in grid.row if row.name in plan.measured]


def _measurements(row: Row, tasks: Sequence[tuple[int, Measured]]) -> Measurements | None:
    """None where not even the base is measured."""
    base: GapReport | None = None
    rounds: dict[int, dict[int, GapReport]] = {}
    for seed, task in tasks:
        for number in range(row.rounds + 1):
            if has(task, number) and (one := measurement(task.folder, number)) is not None:
                if number == 0:
                    base = one
                else:
                    rounds.setdefault(number, {})[seed] = one
    return Measurements(base, rounds) if base is not None else None


def has(task: Measured, number: int) -> bool:
    """Whether a task's folder holds a round's measurement under its settings."""
    if isinstance(task, Base):
        return number == 0 and measured_as(task.folder, 0, task.settings.eval)
    return task.has(number)


def _row(
    grid: Grid,
    row: Row,
    found: Measurements | None,
    tasks: Sequence[tuple[int, Measured]],
    default: Measurements | None,
    looks: Looks,
) -> RowResult:
    folders = {seed: task for seed, task in tasks if not isinstance(task, Base)}
    rounds: list[Round] = []
    if found is not None:
        rounds.append(_base(found.base, tasks))
        rounds += [_round(number, found, default, folders) for number in sorted(found.rounds)]
    complete = found is not None and all(
        set(found.rounds.get(number, {})) >= set(row.seeds) for number in range(1, row.rounds + 1)
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
        looks=len(looks.of(grid, row)),
    )


def _base(report: GapReport, tasks: Sequence[tuple[int, Measured]]) -> Round:
    seconds = [seconds_of(task.folder, 0) for _, task in tasks]
    return _measured(0, (), [report], stacked([[report]])[0], next((one for one in seconds if one), {}))


def _measured(
    number: int, seeds: tuple[int, ...], reports: Sequence[GapReport], sides: Sides, seconds: dict[str, float]
) -> Round:
    """What a round has without others to compare it with."""
    und, gen, gap = crossed(sides.und), crossed(sides.gen), crossed(sides.gap)
    kinds = sorted({kind for report in reports for kind in report.by_kind})
    return Round(
        round=number,
        seeds=seeds,
        items=sides.und.shape[1],
        und=short(und.value),
        und_ci=_bounds(und),
        gen=short(gen.value),
        gen_ci=_bounds(gen),
        gap=short(gap.value),
        gap_ci=_bounds(gap),
        by_kind={
            kind: _kind([one.by_kind[kind] for one in reports if kind in one.by_kind]) for kind in kinds
        },
        by_seed={str(seed): _kind([one]) for seed, one in zip(seeds, reports, strict=False)},
        seconds={stage: round(value, 1) for stage, value in seconds.items()},
    )


def _kind(found: Sequence[object]) -> Kind:
    und, gen = (short(fmean(getattr(one, side) for one in found)) for side in ("und", "gen"))
    return Kind(und=und, gen=gen)


def _round(
    number: int, found: Measurements, default: Measurements | None, folders: dict[int, Cell | Final]
) -> Round:
    reports = found.rounds[number]
    seeds = tuple(sorted(reports))
    now, base = stacked([[reports[seed] for seed in seeds], [found.base]])
    runs = [_trained_in(folders[seed]) for seed in seeds]
    seconds = [
        {**seconds_of(run, number), **seconds_of(folders[seed].folder, number)}
        for seed, run in zip(seeds, runs, strict=True)
    ]
    plain = _measured(number, seeds, [reports[seed] for seed in seeds], now, mean_seconds(seconds))
    und, gen = crossed(now.und - base.und), crossed(now.gen - base.gen)
    closed = cut(now.gap, base.gap)
    return msgspec.structs.replace(
        plain,
        und_gain=short(und.value),
        und_gain_ci=_bounds(und),
        gen_gain=short(gen.value),
        gen_gain_ci=_bounds(gen),
        gap_cut=short(closed.value) if closed else None,
        gap_cut_ci=_bounds(closed) if closed else None,
        since_previous=_since(number, found, reports),
        versus_default=_versus(reports, default.rounds.get(number) if default else None),
        pairs=pairs_of(runs, number),
        trained=training_of(runs, number),
    )


def _trained_in(task: Cell | Final) -> Path:
    """The folder of the cell that trained."""
    return task.folder if isinstance(task, Cell) else task.cell.folder


def _since(number: int, found: Measurements, reports: dict[int, GapReport]) -> Change:
    """Over the round before, under the seeds that have both."""
    if number == 1:
        return _change([[reports[seed] for seed in sorted(reports)], [found.base]])
    before = found.rounds[number - 1]
    seeds = sorted(set(reports) & set(before))
    return _change([[one[seed] for seed in seeds] for one in (reports, before)])


def _versus(reports: dict[int, GapReport], default: dict[int, GapReport] | None) -> Change | None:
    if not default or set(reports) != set(default):
        return None
    return _change([[one[seed] for seed in sorted(reports)] for one in (reports, default)])


def _change(groups: Sequence[Sequence[GapReport]]) -> Change:
    """The first group minus the second, which may be one report for all seeds."""
    after, before = stacked(groups)
    und, gen, gap = (crossed(getattr(after, side) - getattr(before, side)) for side in ("und", "gen", "gap"))
    return Change(
        und=short(und.value),
        und_ci=_bounds(und),
        gen=short(gen.value),
        gen_ci=_bounds(gen),
        gap=short(gap.value),
        gap_ci=_bounds(gap),
    )


def _summary(row: Row, rows: Sequence[RowResult], split: str) -> Summary | None:
    found = next((one for one in rows if one.name == row.name), None)
    last = next((one for one in found.rounds if one.round == row.rounds), None) if found else None
    if found is None or last is None or last.und_gain is None or last.gen_gain is None:
        return None
    assert last.und_gain_ci is not None
    assert last.gen_gain_ci is not None
    return Summary(
        row=row.name,
        complete=found.complete,
        rounds=last.round,
        seeds=last.seeds,
        split=split,
        looks=found.looks,
        und_gain=last.und_gain,
        und_gain_ci=last.und_gain_ci,
        gen_gain=last.gen_gain,
        gen_gain_ci=last.gen_gain_ci,
        gap_cut=last.gap_cut,
        gap_cut_ci=last.gap_cut_ci,
    )


def _bounds(one: Interval) -> Bounds:
    return short(one.low), short(one.high)
