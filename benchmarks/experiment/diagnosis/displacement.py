"""What becomes of winners and losers over training, and of generation with it.

Pair-DPO can raise every margin while winner and loser both become less likely. Means over windows of the
round's steps show it; beside them stands how much generation gained over the base, at the end and, with
--points, after fewer steps: each such point is a training of its own from the round's pairs, with the same
settings but for `train.steps`, measured on the run's own split.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import msgspec

from benchmarks.experiment.cells import Cell
from benchmarks.experiment.diagnosis.inspected import Mean, finish, mean, options, shown, write
from benchmarks.experiment.pairing import stacked
from benchmarks.experiment.runner import Runner, held
from benchmarks.experiment.settings import CellSettings
from benchmarks.experiment.sharing import measurement, round_folder, stored_settings
from curate.evaluation.records import GapReport
from engine.errors import ConfigError, DataError
from engine.records import Record
from train.config import METRICS
from train.logging.metrics import ModalityMetrics, TrainStep, read_metrics

WINDOWS = 10


class SideWindow(Record):
    """Means over a window's steps, nats; see `train.logging.metrics.ModalityMetrics`."""

    margin: float
    accuracy: float
    win_gain: float
    lose_gain: float
    kl: float


class Window(Record):
    """Steps next to each other."""

    last: int
    """The last of them, from 1."""
    captions: SideWindow | None
    images: SideWindow | None


class Point(Record):
    """Both sides' gains over the base after so many steps."""

    steps: int
    und: Mean | None
    gen: Mean | None


class Report(Record):
    """What was found."""

    run: str
    round: int
    windows: tuple[Window, ...]
    points: tuple[Point, ...]


def windows(steps: Sequence[TrainStep], count: int = WINDOWS) -> tuple[Window, ...]:
    """The steps in so many windows of about equal length."""
    count = min(count, len(steps))
    edges = [round(place * len(steps) / count) for place in range(count + 1)]
    return tuple(
        Window(
            last=steps[end - 1].step,
            captions=_side([step.captions for step in steps[start:end]]),
            images=_side([step.images for step in steps[start:end]]),
        )
        for start, end in itertools.pairwise(edges)
    )


def _side(found: Sequence[ModalityMetrics | None]) -> SideWindow | None:
    known = [one for one in found if one is not None]
    if not known:
        return None
    means = {
        name: round(fmean(getattr(one, name) for one in known), 5) for name in SideWindow.__struct_fields__
    }
    return SideWindow(**means)


def point(steps: int, base: GapReport, after: GapReport) -> Point:
    """The gains of one measurement over the base, item by item."""
    now, before = stacked([[after], [base]])
    return Point(steps=steps, und=mean((now.und - before.und)[0]), gen=mean((now.gen - before.gen)[0]))


def shorter(settings: CellSettings, steps: int) -> CellSettings:
    """The same training with fewer steps; steps of `sum` before another objective are shortened alike."""
    train = settings.train
    if not 1 <= steps < train.steps:
        raise ConfigError(f"--points: {steps} steps; the round itself has {train.steps}")
    changed = {"steps": steps, "sum_steps": train.sum_steps * steps // train.steps, "warmup": None}
    return msgspec.structs.replace(settings, train=msgspec.structs.replace(train, **changed))


def train_points(run: Path, to: Path, points: Sequence[int]) -> dict[int, GapReport]:
    """Trains and measures round 1 anew with each number of steps; what is there is not done again.

    Raises:
        DataError: one of them failed, or the run's base is not measured.
    """
    settings = stored_settings(run)
    tasks = [
        Cell(
            folder=to.resolve() / f"steps-{steps}",
            settings=shorter(settings, steps),
            rows=(f"{steps} steps",),
            seed=settings.train.seed,
            rounds=1,
            base=run.resolve(),
            curation=run.resolve(),
            siblings=(run.resolve(),),
        )
        for steps in points
    ]
    if not tasks:
        return {}
    with held(to):
        failures = Runner(tasks, 1, lambda task: None, lambda task: None).run()
    if failures:
        raise DataError(f"{failures[0].task}: {failures[0].line}")
    found = {steps: measurement(task.folder, 1) for steps, task in zip(points, tasks, strict=True)}
    return {steps: one for steps, one in found.items() if one is not None}


def diagnose(run: Path, number: int, points: Sequence[int], to: Path) -> Report:
    """The windows of a round, and generation at its end and at the extra points of round 1.

    Raises:
        DataError: the round has no metrics, or extra points are wanted of a run whose base is not measured.
    """
    steps = read_metrics(round_folder(run, number) / "checkpoint.training" / METRICS)
    if not steps:
        raise DataError(f"{run}: round {number} has no steps yet")
    base, after = measurement(run, 0), measurement(run, number)
    if points and (number != 1 or base is None):
        raise DataError(f"{run}: --points trains round 1 anew, and needs the base's measurement (round-0)")
    measured = train_points(run, to, sorted(points))
    if after is not None:
        measured[len(steps)] = after
    found = [point(count, base, one) for count, one in sorted(measured.items())] if base else []
    return Report(run=run.name, round=number, windows=windows(steps), points=tuple(found))


def table(report: Report) -> str:
    """Windows, then points."""
    lines = [f"{'':10} {'captions':^31} {'images':^31}"]
    lines.append(f"{'to step':>10} {'  winner    loser      kl margin' * 2}")
    for one in report.windows:
        sides = [
            f"{side.win_gain:8.3f} {side.lose_gain:8.3f} {side.kl:7.3f} {side.margin:6.3f}"
            if side
            else f"{'-':>32}"
            for side in (one.captions, one.images)
        ]
        lines.append(f"{one.last:10} {''.join(sides)}")
    if report.points:
        lines += ["", f"{'steps':>10} {'und gained':>18} {'gen gained':>18}"]
        lines += [f"{one.steps:10} {shown(one.und):>18} {shown(one.gen):>18}" for one in report.points]
    return "\n".join(lines)


def draw(report: Report, to: Path) -> None:
    """Gains of winners and losers over the steps, and generation's where it was measured."""
    from benchmarks.experiment.diagnosis.drawing import legend_below, save, subplots

    figure, panels = subplots(1, 3, height=3.0)
    for axes, side in zip(panels, ("captions", "images"), strict=False):
        known = [(one.last, getattr(one, side)) for one in report.windows if getattr(one, side) is not None]
        for field, color, style, name in (
            ("win_gain", "#2c8a4b", "-", "winner"),
            ("lose_gain", "#c03a3a", "--", "loser"),
            ("kl", "#8a8a8a", ":", "KL estimate"),
        ):
            axes.plot(
                [step for step, _ in known],
                [getattr(one, field) for _, one in known],
                color=color,
                linestyle=style,
                label=name,
            )
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_title(f"{side}: log-prob gained, nats", fontsize=9, loc="left")
        axes.set_xlabel("step", fontsize=8)
        legend_below(axes)
    last = panels[2]
    for field, color, marker, name in (
        ("und", "#1f5aa6", "o", "understanding"),
        ("gen", "#c2571a", "s", "generation"),
    ):
        points = [(one.steps, getattr(one, field)) for one in report.points]
        kept = [(steps, one) for steps, one in points if one is not None]
        last.errorbar(
            [0, *(steps for steps, _ in kept)],
            [0.0, *(one.value for _, one in kept)],
            yerr=[0.0, *((one.ci[1] - one.ci[0]) / 2 for _, one in kept)],
            color=color,
            marker=marker,
            markersize=4,
            capsize=2,
            label=name,
        )
    last.axhline(0, color="0.6", linewidth=0.8)
    last.set_title("right answers gained", fontsize=9, loc="left")
    last.set_xlabel("steps of a training", fontsize=8)
    legend_below(last)
    save(figure, to)


def _steps(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",") if one.strip()]
    except ValueError as error:
        raise ConfigError(f"--points {text!r}: give numbers of steps with commas between") from error


def main() -> None:
    """Prints, writes, draws."""
    parser = options("displacement", __doc__)
    parser.add_argument("--points", default="", help="steps of extra trainings, with commas between")
    parser.add_argument("--scratch", type=Path, default=Path("runs/diagnosis"), help="where those lie")
    given = parser.parse_args()
    scratch = given.scratch / given.run.resolve().name
    report = diagnose(given.run, given.round, _steps(given.points), scratch)
    print(table(report))
    draw(report, given.picture)
    write(report, given.to)


if __name__ == "__main__":
    finish(main)
