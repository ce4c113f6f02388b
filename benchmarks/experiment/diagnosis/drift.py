"""What becomes of pairs, critic and likelihoods over the rounds of runs.

A recipe that is over-optimised shows it here: the critic finds the candidates of later rounds as good or
better while the oracle finds them worse, fewer pairs are in the right order, and training moves losers, then
winners too, ever further from the reference.

Of each recipe the runs under several seeds of training are averaged; the picture shows each beside the mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean

from benchmarks.experiment.diagnosis.inspected import Inspected, finish, runs_in, titled, write
from benchmarks.experiment.sharing import round_folder
from curate.evaluation.agreement import Agreement, agreement, judge_item
from engine.errors import DataError
from engine.records import Record
from train.logging.run_state import METRICS, read_metrics

TAIL = 0.2
"""Share of a round's steps, its last ones, whose mean tells where training ended."""
SIDE = ("win_gain", "lose_gain", "kl")


class Drift(Record):
    """One round of one run; shares are of all answers about, or of all pairs of, the round's candidates."""

    round: int
    critic: float
    """Right answers by the critic: the model itself."""
    oracle: float
    """The same by the pixel oracle."""
    right: float
    """Image pairs in the oracle's order, too."""
    wrong: float
    win_gain: float | None = None
    """Image winners' log-prob over the reference's at the end of training, nats; None if the round is not
    trained."""
    lose_gain: float | None = None
    kl: float | None = None


class Run(Record):
    """The rounds of one run."""

    folder: str
    rounds: tuple[Drift, ...]


class Recipe(Record):
    """Runs of the same settings under several seeds."""

    title: str
    runs: tuple[Run, ...]

    def means(self, field: str) -> list[tuple[int, float]]:
        """(round, mean over the runs that have it)."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            for one in run.rounds:
                if (value := getattr(one, field)) is not None:
                    found.setdefault(one.round, []).append(value)
        return [(number, fmean(values)) for number, values in sorted(found.items())]


class Report(Record):
    """What was found."""

    recipes: tuple[Recipe, ...]


def ended(run: Path, number: int) -> dict[str, float]:
    """Means of the images' metrics over the last steps of a round's training; empty where there are none."""
    path = round_folder(run, number) / "checkpoint.training" / METRICS
    steps = read_metrics(path) if path.is_file() else []
    sides = [step.images for step in steps if step.images is not None]
    last = sides[-max(1, round(TAIL * len(sides))) :]
    return {name: round(fmean(getattr(one, name) for one in last), 4) for name in SIDE if last}


def judged(run: Path, number: int) -> Agreement:
    """Critic and oracle on a round's candidates.

    Raises:
        DataError: the round has none that both can judge.
    """
    inspected = Inspected(run, number)
    items = [judge_item(item, inspected.pair(item), inspected.decode) for item in inspected.items()]
    found = agreement(items)
    if found is None:
        raise DataError(f"{inspected.folder}: no item here has questions and two images")
    return found


def drift(run: Path, number: int) -> Drift:
    """One round."""
    seen = judged(run, number)
    return Drift(
        round=number,
        critic=round(seen.answers.judge.value, 5),
        oracle=round(seen.answers.oracle.value, 5),
        right=round(seen.pairs_right.value, 5),
        wrong=round(seen.pairs_wrong.value, 5),
        **ended(run, number),
    )


def diagnose(title: str, folder: Path) -> Recipe:
    """All rounds of a recipe's runs."""
    runs = []
    for run in runs_in(folder, lambda one: round_folder(one, 1).is_dir()):
        numbers = sorted(int(one.parent.name.removeprefix("round-")) for one in run.glob("round-*/curate"))
        runs.append(Run(folder=run.name, rounds=tuple(drift(run, number) for number in numbers)))
    return Recipe(title=title, runs=tuple(runs))


def table(report: Report) -> str:
    """A line a round of every recipe, means over its runs."""
    names = ("critic", "oracle", "right", "wrong", "winner", "loser", "KL")
    widths = (7, 7, 6, 6, 8, 8, 6)
    lines = [" " * 34 + "".join(f" {name:>{width}}" for name, width in zip(names, widths, strict=True))]
    for recipe in report.recipes:
        columns = {name: dict(recipe.means(name)) for name in Drift.__struct_fields__[1:]}
        for number in columns["critic"]:
            values = [columns[name].get(number) for name in Drift.__struct_fields__[1:]]
            cells = [
                f"{'-':>{width}}" if value is None else f"{value:{width}.3f}"
                for value, width in zip(values, widths, strict=True)
            ]
            lines.append(f"{f'{recipe.title}, round {number}':34} {' '.join(cells)}")
    return "\n".join(lines)


COLORS = ("#c2571a", "#1f5aa6", "#2c8a4b", "#7a4fa3")
PANELS = (
    ("right answers, candidates", (("critic", "--", "by the model"), ("oracle", "-", "by the oracle"))),
    ("order of image pairs", (("right", "-", "right"), ("wrong", "--", "wrong way round"))),
    ("log-prob gained, nats", (("win_gain", "-", "winners"), ("lose_gain", "--", "losers"))),
)
"""Title, and (field, line style, name) of the lines, of each panel."""


def draw(report: Report, to: Path) -> None:
    """Critic against oracle, order of pairs, log-probs; a colour a recipe."""
    from benchmarks.experiment.diagnosis.drawing import legend_below, save, subplots

    figure, panels = subplots(1, 3, height=3.4)
    for axes, (title, fields) in zip(panels, PANELS, strict=True):
        for field, style, name in fields:
            axes.plot([], [], color="0.3", linestyle=style, label=name)
            for recipe, color in zip(report.recipes, cycle(COLORS), strict=False):
                for run in recipe.runs:
                    known = [(one.round, getattr(one, field)) for one in run.rounds]
                    thin = _columns([one for one in known if one[1] is not None])
                    axes.plot(*thin, color=color, linestyle=style, linewidth=0.6, alpha=0.4)
                points = _columns(recipe.means(field))
                axes.plot(*points, color=color, linestyle=style, marker="o", markersize=4)
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel("round", fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend_below(axes, 1)
    shown = zip(report.recipes, cycle(COLORS), strict=False)
    lines = [panels[0].plot([], [], color=color, marker="o", label=one.title)[0] for one, color in shown]
    figure.legend(handles=lines, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    save(figure, to)


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def main() -> None:
    """Prints, writes, draws."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiment.diagnosis.drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "recipes", nargs="+", metavar="TITLE=FOLDER", help="a run, or a cell's folder with one run a seed"
    )
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results/diagnosis-drift.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/diagnosis-drift.png"))
    given = parser.parse_args()
    report = Report(recipes=tuple(diagnose(title, folder) for title, folder in titled(given.recipes)))
    print(table(report))
    draw(report, given.picture)
    write(report, given.to)


if __name__ == "__main__":
    finish(main)
