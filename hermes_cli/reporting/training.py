"""Training curves: the steps of all rounds one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from engine.errors import DataError
from engine.records import Record
from hermes_cli.inspection.markup import Markup, join, tag
from hermes_cli.reporting.plots import Line, Point, axis, chart, smooth, thinned
from hermes_cli.reporting.rounds import prose
from hermes_cli.run.folder import RunFolder

if TYPE_CHECKING:
    from train.logging.metrics import TrainStep


class Trained(Record):
    """The steps of one round."""

    round: int
    steps: tuple[TrainStep, ...]


def read_training(folder: RunFolder, numbers: Sequence[int]) -> tuple[list[Trained], list[str]]:
    """The steps of every round that has any, and what cannot be read."""
    from train.logging.run_state import METRICS, read_metrics

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
                found.append(Trained(round=number, steps=tuple(steps)))
    return found, notes


Read = Callable[["TrainStep"], float | None]


def _side(side: str, name: str) -> Read:
    def read(step: TrainStep) -> float | None:
        found = getattr(step, side)
        return None if found is None else float(getattr(found, name))

    return read


_BOTH = ("captions", "images")
_COLOURS = {"captions": "und", "images": "gen", "": "ink"}


def _panels() -> Iterator[tuple[str, str, tuple[tuple[str, Read], ...], float | None]]:
    """(title, unit, (side, reader) of each line, level)."""
    yield "Loss", "as minimised, nats", (("", lambda step: step.loss),), None
    yield (
        "Margin",
        "β times the log-ratio difference, nats",
        tuple((one, _side(one, "margin")) for one in _BOTH),
        0.0,
    )
    yield "Pair accuracy", "share of margins above 0", (("", lambda step: step.accuracy),), 0.5
    yield (
        "Winner's gain",
        "log-likelihood over the reference's, nats",
        tuple((one, _side(one, "win_gain")) for one in _BOTH),
        0.0,
    )


def training_part(trained: Sequence[Trained], notes: Sequence[str]) -> Markup:
    """Four panels; rounds are divided by lines."""
    said = [tag("p", prose(note), class_="note") for note in notes]
    if not trained:
        content = join(
            tag("p", prose("No training steps yet: `hermes train` writes them."), class_="note"), *said
        )
        return tag("section", tag("h2", "Training"), content, class_="card", id="training")
    total = sum(len(one.steps) for one in trained)
    legend = tag(
        "div",
        tag("span", tag("i", class_="und"), "captions"),
        tag("span", tag("i", class_="gen"), "images"),
        tag("span", tag("i", class_="ink"), "both"),
        class_="legend",
    )
    panels = [_panel(trained, total, *one) for one in _panels()]
    rounds = (
        "round" if len(trained) == 1 else "rounds, one after the other; each starts anew from its reference"
    )
    note = f"{total} steps of {len(trained)} {rounds}. Thin lines are steps, bold ones a running mean."
    return tag(
        "section",
        tag("div", tag("h2", "Training"), legend, class_="heading"),
        tag("div", *panels, class_="columns panels"),
        tag("p", prose(note), class_="note"),
        *said,
        class_="card",
        id="training",
    )


def _panel(
    trained: Sequence[Trained],
    total: int,
    title: str,
    unit: str,
    lines: Sequence[tuple[str, Read]],
    level: float | None,
) -> Markup:
    drawn: list[Line] = []
    starts, start = [], 0
    for one in trained:
        starts.append(start)
        for side, read in lines:
            drawn += _curve(one.steps, start, total, read, _COLOURS[side])
        start += len(one.steps)
    values = [point.y for line in drawn for point in line.points]
    scale = axis([*values, *([level] if level is not None else [])], parts=3, least=1e-3)
    middles = [
        ((begin + len(one.steps) / 2) / total, f"round {one.round}")
        for begin, one in zip(starts, trained, strict=True)
    ]
    figure = chart(
        drawn,
        scale,
        middles,
        f"{title} over the steps",
        level=level,
        dividers=[one / total for one in starts[1:]],
    )
    return tag("figure", tag("figcaption", tag("h3", title), tag("small", unit)), figure)


def _curve(steps: Sequence[TrainStep], start: int, total: int, read: Read, class_: str) -> Iterator[Line]:
    """The steps thinly, and their running mean."""
    found = [((start + place + 0.5) / total, read(step)) for place, step in enumerate(steps)]
    known = [(x, y) for x, y in found if y is not None]
    if not known:
        return
    raw = [Point(x=x, y=y) for x, y in known]
    mean = smooth([y for _, y in known], max(3, len(known) // 8))
    smoothed = [Point(x=x, y=y) for (x, _), y in zip(known, mean, strict=True)]
    yield Line(points=tuple(thinned(raw)), class_=class_, thin=True)
    yield Line(points=tuple(thinned(smoothed)), class_=class_)
