"""Training curves: those of the report, over all rounds, and a picture of one round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError
from engine.records import Record
from hermes_cli.pages.charts import Line, LineChart, Point, axis
from hermes_cli.run.folder import RunFolder
from train.config import METRICS
from train.logging.metrics import TrainStep, read_metrics

MOST_POINTS = 400
"""What a line has at most: more are averaged."""


class RoundTraining(Record):
    """The steps of one round."""

    round: int
    steps: tuple[TrainStep, ...]


class TrainingPanel(Record):
    """One chart of the training curves."""

    title: str
    unit: str
    chart: LineChart


def read_training(folder: RunFolder, numbers: Sequence[int]) -> tuple[list[RoundTraining], list[str]]:
    """The steps of every round that has any, and what cannot be read."""
    found, notes = [], []
    for number in numbers:
        path = folder.training(number) / METRICS
        if not path.is_file():
            continue
        try:
            steps = read_metrics(path)
        except DataError as error:
            notes.append(f"Round {number}: {error}.")
        else:
            if steps:
                found.append(RoundTraining(round=number, steps=tuple(steps)))
    return found, notes


def training_panels(trained: Sequence[RoundTraining]) -> list[TrainingPanel]:
    """Loss, margin, pair accuracy and the winner's gain over all rounds."""

    def of_both(field: str) -> dict[str, str]:
        return {"und": f"captions.{field}", "gen": f"images.{field}"}

    # Title, unit, colour -> field of a step, level.
    panels: list[tuple[str, str, dict[str, str], float | None]] = [
        ("Loss", "as minimised, nats", {"ink": "loss"}, None),
        ("Margin", "β times the log-ratio difference, nats", of_both("margin"), 0.0),
        ("Pair accuracy", "share of margins above 0", {"ink": "accuracy"}, 0.5),
        ("Winner's gain", "log-likelihood over the reference's, nats", of_both("win_gain"), 0.0),
    ]
    return [
        TrainingPanel(title=title, unit=unit, chart=_chart(trained, title, fields, level))
        for title, unit, fields, level in panels
    ]


def _chart(
    trained: Sequence[RoundTraining], title: str, fields: dict[str, str], level: float | None
) -> LineChart:
    total = sum(len(one.steps) for one in trained)
    lines: list[Line] = []
    across, dividers, start = [], [], 0
    for one in trained:
        for colour, field in fields.items():
            lines += _curve(one.steps, start, total, field, colour)
        across.append(((start + len(one.steps) / 2) / total, f"round {one.round}"))
        dividers.append(start / total)
        start += len(one.steps)
    values = [point.y for line in lines for point in line.points]
    return LineChart(
        about=f"{title} over the steps",
        lines=tuple(lines),
        axis=axis([*values, *([] if level is None else [level])], parts=3, least=1e-3),
        across=tuple(across),
        level=level,
        dividers=tuple(dividers[1:]),
    )


def _curve(steps: Sequence[TrainStep], start: int, total: int, field: str, colour: str) -> Iterator[Line]:
    """The steps thinly, and their running mean; nothing where no step has the field."""
    known, values = step_values(steps, field)
    if known:
        places = (np.array(known) + start + 0.5) / total
        yield Line(points=_thinned(places, values), colour=colour, thin=True)
        yield Line(points=_thinned(places, smooth(values, max(3, len(known) // 8))), colour=colour)


def step_values(steps: Sequence[TrainStep], field: str) -> tuple[list[int], NDArray[np.float64]]:
    """Places of the steps that have a field, and its values; `captions.loss` is a field of one side."""
    side = field.rpartition(".")[0]
    known = [place for place, step in enumerate(steps) if not side or getattr(step, side) is not None]
    return known, np.array([attrgetter(field)(steps[place]) for place in known], float)


def smooth(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean over a centred window that shrinks at the ends."""
    sums = np.concatenate(([0.0], values.cumsum()))
    places = np.arange(len(values))
    low, high = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    smoothed: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return smoothed


def _thinned(places: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[Point, ...]:
    """No more than MOST_POINTS points: means of as many neighbours as that takes."""
    starts = np.arange(0, len(values), -(-len(values) // MOST_POINTS))
    counts = np.diff([*starts, len(values)])
    means = (np.add.reduceat(one, starts) / counts for one in (places, values))
    return tuple(Point(x=float(x), y=float(y)) for x, y in zip(*means, strict=True))


_COLOURS = {"captions": "#2f6fde", "images": "#d9822b"}
_WHOLE = "#444444"
_PANELS: dict[str, tuple[float | None, dict[str, str]]] = {
    "loss (nats)": (None, {"captions.loss": "captions", "images.loss": "images", "loss": "minimised"}),
    "margin (nats, with beta)": (0.0, {"captions.margin": "captions", "images.margin": "images"}),
    "pair accuracy": (0.5, {"captions.accuracy": "captions", "images.accuracy": "images"}),
    "log-likelihood gain (nats)": (
        0.0,
        {
            f"{side}.{field}": f"{side}, {name}"
            for side in _COLOURS
            for field, name in (("win_gain", "winner"), ("lose_gain", "loser"))
        },
    ),
    "gradient norm before clipping": (None, {"grad_norm": "gradient"}),
    "learning rate": (None, {"learning_rate": "rate"}),
}
"""Title -> (level, field of a step -> label)."""


def draw_training(steps: Sequence[TrainStep], path: Path, title: str) -> None:
    """Six panels as PNG; thin lines are steps, thick ones a running mean, dotted ones losers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(12, 6.2), layout="constrained")
    for panel, (name, (level, fields)) in zip(panels.flat, _PANELS.items(), strict=True):
        for field, label in fields.items():
            _draw(panel, steps, field, label)
        panel.set_xlabel("step")
        panel.set_title(name, fontsize=10, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
        if level is None:
            panel.set_ylim(bottom=0)
        else:
            panel.axhline(level, color="#bbbbbb", linewidth=0.8)
        if len(panel.get_legend_handles_labels()[0]) > 1:
            panel.legend(frameon=False, fontsize=8)
    panels.flat[-1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    beside = path.with_name(path.name + ".new.png")
    figure.savefig(beside, dpi=130)
    pyplot.close(figure)
    beside.replace(path)


def _draw(panel: Any, steps: Sequence[TrainStep], field: str, label: str) -> None:
    """A running mean, with its steps as a thin line behind it; nothing where no step has the field."""
    places, values = step_values(steps, field)
    if not places:
        return
    at = np.array([steps[place].step for place in places])
    colour = _COLOURS.get(field.partition(".")[0], _WHOLE)
    loser = field.endswith("lose_gain")
    if not loser:
        panel.plot(at, values, color=colour, alpha=0.2, linewidth=1)
    # The rate is set, not measured.
    mean = values if field == "learning_rate" else smooth(values, max(3, len(steps) // 10))
    panel.plot(at, mean, color=colour, linewidth=2, linestyle=":" if loser else "-", label=label)
