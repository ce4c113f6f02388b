"""How much guidance checkpoints want: generation under several weights w, on validation.

A recipe is measured with the decoding that was best for its base. Training that makes images follow their
captions does a part of what guidance did, and a trained model may then be painted with too much of it. The
first checkpoint is the base; of each other one stand beside it the generation gained and the share of the
base's gap cut, once with the base's best weight for both and once with each one's own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import msgspec

from benchmarks.experiment.cells import Base
from benchmarks.experiment.diagnosis.inspected import Mean, finish, mean, shown, titled, write
from benchmarks.experiment.grid import SHIPPED, load_grid
from benchmarks.experiment.pairing import stacked
from benchmarks.experiment.runner import Runner, held
from benchmarks.experiment.settings import CellSettings, digest
from benchmarks.experiment.sharing import measurement
from benchmarks.experiment.statistics import Array
from benchmarks.quality.records import GapReport
from engine.errors import ConfigError, DataError
from engine.records import PaintSettings, Record
from engine.weights import fingerprint


class Point(Record):
    """A checkpoint under one weight."""

    guidance: float
    und: Mean
    gen: Mean


class Curve(Record):
    """A checkpoint under all of them."""

    title: str
    weights: str
    """Fingerprint."""
    points: tuple[Point, ...]
    best: float
    """The weight of the highest generation."""
    gained: Mean | None = None
    """Generation over the base's, both at the base's best weight; None for the base."""
    gained_best: Mean | None = None
    """The same, each at its own best."""
    cut: float | None = None
    """Share of the base's gap cut, both at the base's best weight."""
    cut_best: float | None = None
    """The same, each at its own best."""


class Report(Record):
    """What was found."""

    split: str
    limit: int
    paint: PaintSettings
    curves: tuple[Curve, ...]


def _mean(values: Array) -> Mean:
    found = mean(values)
    if found is None:
        raise DataError("fewer than two items were measured: nothing to average; raise --limit")
    return found


def curves(titles: Sequence[str], measured: Sequence[dict[float, GapReport]]) -> tuple[Curve, ...]:
    """A curve a checkpoint from its measurements by weight; the first checkpoint is the base.

    Raises:
        DataError: they are not of the same items.
    """
    best = [max(one, key=lambda w: (one[w].gen, -w)) for one in measured]
    base, at = measured[0], best[0]
    found = []
    for title, reports, own in zip(titles, measured, best, strict=True):
        points = []
        for weight, report in sorted(reports.items()):
            (sides,) = stacked([[report]])
            points.append(Point(guidance=weight, und=_mean(sides.und[0]), gen=_mean(sides.gen[0])))
        curve = Curve(title=title, weights=reports[own].fingerprint, points=tuple(points), best=own)
        if reports is base:
            found.append(curve)
            continue
        gained, cut = zip(*(_against(base[at], reports[weight]) for weight in (at, own)), strict=True)
        found.append(
            msgspec.structs.replace(
                curve, gained=gained[0], gained_best=gained[1], cut=cut[0], cut_best=cut[1]
            )
        )
    return tuple(found)


def _against(base: GapReport, after: GapReport) -> tuple[Mean, float]:
    """Generation gained, item by item, and the share of the gap cut."""
    now, before = stacked([[after], [base]])
    cut = 1 - now.gap.mean() / before.gap.mean()
    return _mean((now.gen - before.gen)[0]), round(float(cut), 5)


def tasks(checkpoints: Sequence[Path], weights: Sequence[float], like: CellSettings, to: Path) -> list[Base]:
    """A measurement of each checkpoint under each weight, measured else as `like`."""
    found = []
    for checkpoint in checkpoints:
        for weight in weights:
            paint = msgspec.structs.replace(like.eval.paint, guidance=weight)
            config = msgspec.structs.replace(like.eval, paint=paint)
            settings = msgspec.structs.replace(like, model=str(checkpoint.resolve()), eval=config)
            key = digest({"weights": fingerprint(checkpoint), "measured": settings.base_basis})
            found.append(Base(folder=to.resolve() / f"guidance-{key}", settings=settings))
    return found


def diagnose(
    named: Sequence[tuple[str, Path]], weights: Sequence[float], like: CellSettings, to: Path, jobs: int
) -> Report:
    """Measures what is not measured yet, and compares.

    Raises:
        DataError: a measurement failed.
    """
    planned = tasks([path for _, path in named], weights, like, to)
    with held(to):
        failures = Runner(planned, jobs, lambda task: None, lambda task: None, print).run()
    if failures:
        raise DataError(f"{failures[0].task}: {failures[0].line}")
    reports = [measurement(one.folder, 0) for one in planned]
    known = [one for one in reports if one is not None]
    groups = [
        dict(zip(weights, known[start : start + len(weights)], strict=True))
        for start in range(0, len(known), len(weights))
    ]
    return Report(
        split=like.eval.split,
        limit=like.eval.limit,
        paint=like.eval.paint,
        curves=curves([title for title, _ in named], groups),
    )


def table(report: Report) -> str:
    """A line a checkpoint."""
    weights = [one.guidance for one in report.curves[0].points]
    heads = "".join(f"{f'w = {weight:g}':>14}" for weight in weights)
    lines = [f"{'':24}{heads}   best  cut at the base's best, at its own"]
    for one in report.curves:
        cells = "".join(f"{shown(point.gen):>14}" for point in one.points)
        cut = "" if one.cut is None or one.cut_best is None else f"  {one.cut:.0%}, {one.cut_best:.0%}"
        lines.append(f"{one.title:24}{cells}   {one.best:<4g}{cut}")
    return "\n".join(lines)


COLORS = ("#8a8a8a", "#c2571a", "#1f5aa6", "#2c8a4b", "#7a4fa3")


def draw(report: Report, to: Path) -> None:
    """Generation over the weight, a line a checkpoint."""
    from benchmarks.experiment.diagnosis.drawing import legend_below, save, subplots

    figure, axes = subplots(1, 1, height=3.6)
    for one, color in zip(report.curves, cycle(COLORS), strict=False):
        at = [point.guidance for point in one.points]
        values = [point.gen.value for point in one.points]
        half = [(point.gen.ci[1] - point.gen.ci[0]) / 2 for point in one.points]
        axes.errorbar(
            at, values, yerr=half, color=color, marker="o", markersize=4, capsize=2, label=one.title
        )
    axes.set_title("generation by guidance, 95% intervals", fontsize=9, loc="left")
    axes.set_xlabel("guidance w", fontsize=8)
    legend_below(axes)
    save(figure, to)


def _weights(text: str) -> list[float]:
    try:
        found = sorted({float(one) for one in text.split(",") if one.strip()})
    except ValueError as error:
        raise ConfigError(f"--guidance {text!r}: give numbers with commas between") from error
    if not found:
        raise ConfigError("--guidance names no weight")
    return found


def main() -> None:
    """Prints, writes, draws."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiment.diagnosis.guidance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoints", nargs="+", metavar="TITLE=CHECKPOINT", help="the base first")
    parser.add_argument("--guidance", default="0,0.5,1,2", help="weights w, with commas between")
    parser.add_argument("--limit", type=int, default=300, help="items")
    parser.add_argument("--jobs", type=int, default=1, help="measurements side by side")
    parser.add_argument("--scratch", type=Path, default=Path("runs/diagnosis"), help="where those lie")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results/diagnosis-guidance.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/diagnosis-guidance.png"))
    given = parser.parse_args()
    shipped = load_grid(SHIPPED)
    like = shipped.settled(shipped.find("base"))
    like = msgspec.structs.replace(like, eval=msgspec.structs.replace(like.eval, limit=given.limit))
    report = diagnose(titled(given.checkpoints), _weights(given.guidance), like, given.scratch, given.jobs)
    print(table(report))
    draw(report, given.picture)
    write(report, given.to)


if __name__ == "__main__":
    finish(main)
