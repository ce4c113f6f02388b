"""What lies between a base and what training made of it: understanding and generation along the line.

A model that is trained to paint forgets some of what it knew about reading images. Weights part of the way
(WiSE-FT, arXiv 2109.01903) may keep nearly all of the one and give back the other; `train.weight_averaging`
publishes such. alpha is 0 at the base and 1 at a checkpoint; beyond 1 the line goes on, so that a checkpoint
published under `interpolation` a has the trained weights at alpha = 1 / a.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import torch
from safetensors.torch import load_file

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
from benchmarks.experiment.runner import held
from benchmarks.experiment.settings import CellSettings, digest
from curate.evaluation.records import GapReport
from engine.checkpoints.weights import fingerprint, load_config, save_state
from engine.errors import DataError
from engine.files.atomic import NEW, place_folder
from engine.files.layout import WEIGHTS
from engine.records import Record


class Point(Record):
    """Weights so far along a line."""

    alpha: float
    und: Mean
    gen: Mean
    und_gained: Mean
    """Over the base, item by item, as gen_gained is."""
    gen_gained: Mean
    cut: float
    """Share of the base's gap cut."""


class Line(Record):
    """From the base through a checkpoint."""

    title: str
    weights: str
    """Fingerprint."""
    points: tuple[Point, ...]


class Report(Record):
    """What was found."""

    split: str
    limit: int
    base: str
    """Fingerprint."""
    lines: tuple[Line, ...]


def between(base: Path, checkpoint: Path, alpha: float, to: Path) -> Path:
    """A checkpoint alpha of the way from one to the other; one that lies there is taken.

    Raises:
        DataError: they are not of one model.
    """
    key = digest({"base": fingerprint(base), "checkpoint": fingerprint(checkpoint), "alpha": alpha})
    folder = to.resolve() / f"between-{key}"
    if folder.is_dir():
        return folder
    start, end = load_file(base / WEIGHTS), load_file(checkpoint / WEIGHTS)
    shapes = [{name: value.shape for name, value in one.items()} for one in (start, end)]
    if shapes[0] != shapes[1]:
        raise DataError(f"{checkpoint}: its weights are not those of a training from {base}")
    beside = folder.with_name(folder.name + NEW)
    shutil.rmtree(beside, ignore_errors=True)
    mixed = {name: torch.lerp(value.float(), end[name].float(), alpha) for name, value in start.items()}
    save_state(mixed, load_config(base), beside, base)
    place_folder(beside, folder)
    return folder


def point(alpha: float, base: GapReport, report: GapReport) -> Point:
    """Both sides there, against the base's."""
    now, before = stacked([[report], [base]])
    return Point(
        alpha=alpha,
        und=mean_of(now.und[0]),
        gen=mean_of(now.gen[0]),
        und_gained=mean_of((now.und - before.und)[0]),
        gen_gained=mean_of((now.gen - before.gen)[0]),
        cut=round(float(1 - now.gap.mean() / before.gap.mean()), 5),
    )


def diagnose(
    named: Sequence[tuple[str, Path]], alphas: Sequence[float], like: CellSettings, to: Path, jobs: int
) -> Report:
    """Makes and measures what is not there yet; the first checkpoint is the base.

    Raises:
        DataError: a checkpoint is of another model, or a measurement failed.
    """
    (_, base), *others = named
    if not others:
        raise DataError("one checkpoint alone: give the base first, then what was trained from it")
    with held(to):
        ways = [between(base, checkpoint, alpha, to) for _, checkpoint in others for alpha in alphas]
    reports: Iterator[GapReport] = iter(
        measure([of_checkpoint(like, one) for one in (base, *ways)], to, jobs)
    )
    start = next(reports)
    lines = tuple(
        Line(
            title=title,
            weights=fingerprint(checkpoint),
            points=tuple(point(alpha, start, next(reports)) for alpha in alphas),
        )
        for title, checkpoint in others
    )
    return Report(split=like.eval.split, limit=like.eval.limit, base=fingerprint(base), lines=lines)


def table(report: Report) -> str:
    """A line a point."""
    found = [f"{'':24}{'alpha':>7}{'understanding':>16}{'generation':>16}{'cut':>6}"]
    for line in report.lines:
        for one in line.points:
            cells = f"{one.alpha:7.3g}{shown(one.und, 4):>16}{shown(one.gen):>16}{one.cut:6.0%}"
            found.append(f"{line.title:24}{cells}")
    return "\n".join(found)


COLORS = ("#c2571a", "#1f5aa6", "#2c8a4b", "#7a4fa3")


def draw(report: Report, to: Path) -> None:
    """What is gained on either side, over alpha."""
    from benchmarks.experiment.diagnosis.drawing import legend_below, save, subplots

    figure, panels = subplots(1, 2, height=3.4)
    sides = (("gen_gained", "generation gained"), ("und_gained", "understanding gained"))
    for axes, (field, title) in zip(panels, sides, strict=True):
        for line, color in zip(report.lines, cycle(COLORS), strict=False):
            values = [getattr(one, field) for one in line.points]
            axes.errorbar(
                [one.alpha for one in line.points],
                [one.value for one in values],
                yerr=[(one.ci[1] - one.ci[0]) / 2 for one in values],
                color=color,
                marker="o",
                markersize=4,
                capsize=2,
                label=line.title,
            )
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_title(f"{title}, 95% intervals", fontsize=9, loc="left")
        axes.set_xlabel("alpha: 0 the base, 1 the checkpoint", fontsize=8)
        legend_below(axes)
    save(figure, to)


def main() -> None:
    """Prints, writes, draws."""
    parser = measuring_options("interpolation", __doc__)
    parser.add_argument("--alphas", default="0.25,0.5,0.75,1", help="shares of the way, with commas between")
    given = parser.parse_args()
    alphas = numbers(given.alphas, "--alphas")
    report = diagnose(titled(given.checkpoints), alphas, as_the_grid(given.limit), given.scratch, given.jobs)
    print(table(report))
    draw(report, given.picture)
    write(report, given.to)


if __name__ == "__main__":
    finish(main)
