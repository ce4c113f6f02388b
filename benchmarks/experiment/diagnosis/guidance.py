"""How much guidance checkpoints want: generation under several weights w, on validation.

A recipe is measured with the decoding that was best for its base. Training that makes images follow their
captions does a part of what guidance did, and a trained model may then be generated with too much of it. The
first checkpoint is the base; of each other one stand beside it the generation gained and the share of the
base's gap cut, once with the base's best weight for both and once with each one's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import msgspec

from benchmarks.experiment.diagnosis.inspected import Mean, finish, shown, titled, write
from benchmarks.experiment.diagnosis.measuring import (
    as_the_grid,
    mean_of,
    measure,
    measuring_options,
    numbers,
    of_checkpoint,
)
from benchmarks.experiment.pairing import stacked
from benchmarks.experiment.settings import CellSettings
from curate.evaluation.records import GapReport
from engine.records import ImageSettings, Record


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
    image: ImageSettings
    curves: tuple[Curve, ...]


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
            points.append(Point(guidance=weight, und=mean_of(sides.und[0]), gen=mean_of(sides.gen[0])))
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
    return mean_of((now.gen - before.gen)[0]), round(float(cut), 5)


def diagnose(
    named: Sequence[tuple[str, Path]], weights: Sequence[float], like: CellSettings, to: Path, jobs: int
) -> Report:
    """Measures what is not measured yet, and compares.

    Raises:
        DataError: a measurement failed.
    """
    planned = [
        under(weight, of_checkpoint(like, checkpoint)) for _, checkpoint in named for weight in weights
    ]
    found = iter(measure(planned, to, jobs))
    groups = [{weight: next(found) for weight in weights} for _ in named]
    return Report(
        split=like.eval.split,
        limit=like.eval.limit,
        image=like.eval.image,
        curves=curves([title for title, _ in named], groups),
    )


def under(weight: float, settings: CellSettings) -> CellSettings:
    """The same, generated with another weight."""
    image = msgspec.structs.replace(settings.eval.image, guidance=weight)
    return msgspec.structs.replace(settings, eval=msgspec.structs.replace(settings.eval, image=image))


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


def main() -> None:
    """Prints, writes, draws."""
    parser = measuring_options("guidance", __doc__)
    parser.add_argument("--guidance", default="0,0.5,1,2", help="weights w, with commas between")
    given = parser.parse_args()
    like = as_the_grid(given.limit)
    report = diagnose(
        titled(given.checkpoints), numbers(given.guidance, "--guidance"), like, given.scratch, given.jobs
    )
    print(table(report))
    draw(report, given.picture)
    write(report, given.to)


if __name__ == "__main__":
    finish(main)
