"""Where generation gained: by how many objects a caption has, and by the kind of question.

Reads measurements alone, so that those which a clone takes up from the results are enough. Of each recipe the
runs under several seeds of training are averaged; an interval is that of the items, which all seeds share.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean

from benchmarks.experiment.diagnosis.inspected import finish, runs_in, titled, write
from benchmarks.experiment.sharing import measurement
from curate.evaluation.records import CategoryGap, GapReport
from engine.records import Record


class Part(Record):
    """The items, or questions, of one part."""

    name: str
    items: int
    und: float
    gen: float
    gen_se: float
    """Of the items, clustered; the mean over seeds."""


class Parts(Record):
    """One round of a recipe."""

    title: str
    round: int
    runs: int
    objects: tuple[Part, ...]
    kinds: tuple[Part, ...]

    @property
    def label(self) -> str:
        """What table and picture call it."""
        return f"{self.title}, round {self.round}" if self.round else self.title


class Report(Record):
    """What was found."""

    recipes: tuple[Parts, ...]


def parts(groups: Sequence[Mapping[str, CategoryGap]]) -> tuple[Part, ...]:
    """Means over runs of what all of them have."""
    names = [name for name in groups[0] if all(name in one for one in groups)]
    return tuple(
        Part(
            name=name,
            items=groups[0][name].items,
            **{
                field: round(fmean(getattr(one[name], field) for one in groups), 5)
                for field in ("und", "gen", "gen_se")
            },
        )
        for name in names
    )


def diagnose(named: Sequence[tuple[str, Path]]) -> Report:
    """Every round that all runs of a recipe have; round 0, the base, once for all recipes that share it. A
    recipe without rounds is a model, and goes by its title.

    Raises:
        DataError: a folder holds no measurement.
    """
    found: list[Parts] = []
    bases: set[str] = set()
    for title, folder in named:
        rounds = _rounds(runs_in(folder, lambda one: measurement(one, 0) is not None))
        for number, reports in enumerate(rounds):
            base = rounds[0][0].fingerprint
            if number or base not in bases:
                before = not number and len(rounds) > 1
                found.append(_parts(f"base of {title}" if before else title, number, reports))
            bases.add(base)
    return Report(recipes=tuple(found))


def _rounds(runs: Sequence[Path]) -> list[list[GapReport]]:
    """The measurements of the first rounds, as far as every run has them."""
    found: list[list[GapReport]] = []
    while True:
        known = [one for run in runs if (one := measurement(run, len(found))) is not None]
        if len(known) < len(runs):
            return found
        found.append(known)


def _parts(title: str, number: int, reports: Sequence[GapReport]) -> Parts:
    return Parts(
        title=title,
        round=number,
        runs=len(reports),
        objects=parts([one.by_objects for one in reports]),
        kinds=parts([one.by_kind for one in reports]),
    )


def table(report: Report) -> str:
    """A line a round: generation of every part."""
    first = report.recipes[0]
    names = [one.name for one in (*first.objects, *first.kinds)]
    width = max(len(one.label) for one in report.recipes)
    lines = [" " * width + "".join(f" {name:>9}" for name in names)]
    lines.append("items or questions".ljust(width) + _cells(first, "items", "9d"))
    lines += [one.label.ljust(width) + _cells(one, "gen", "9.3f") for one in report.recipes]
    return "\n".join(lines)


def _cells(one: Parts, field: str, form: str) -> str:
    return "".join(f" {getattr(part, field):{form}}" for part in (*one.objects, *one.kinds))


COLORS = ("#8a8a8a", "#c2571a", "#1f5aa6", "#2c8a4b", "#7a4fa3", "#b8860b")


def draw(report: Report, to: Path) -> None:
    """Generation by objects and by kind, a line a recipe's base and last round."""
    from benchmarks.experiment.diagnosis.drawing import save, subplots

    last = {one.title: one for one in report.recipes}
    figure, panels = subplots(1, 2, height=3.6)
    lines = []
    for place, (one, color) in enumerate(zip(last.values(), cycle(COLORS), strict=False)):
        aside = 0.1 * (place - (len(last) - 1) / 2)
        for axes, group, line in zip(panels, (one.objects, one.kinds), ("-", "none"), strict=True):
            drawn = axes.errorbar(
                [aside + number for number in range(len(group))],
                [part.gen for part in group],
                yerr=[1.96 * part.gen_se for part in group],
                color=color,
                linestyle=line,
                marker="o",
                markersize=4,
                capsize=2,
                linewidth=1.2,
                label=one.label,
            )
            axes.set_xticks(range(len(group)), [part.name for part in group])
        lines.append(drawn)
    for axes, title in zip(panels, ("by objects in the caption", "by kind of question"), strict=True):
        axes.set_title(f"generation {title}, 95% intervals", fontsize=9, loc="left")
        axes.set_ylim(0, 1)
    panels[1].tick_params(axis="x", labelrotation=20)
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    save(figure, to)


def main() -> None:
    """Prints, writes, draws."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiment.diagnosis.parts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "recipes", nargs="+", metavar="TITLE=FOLDER", help="a run, or a cell's folder with one run a seed"
    )
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results/diagnosis-parts.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/diagnosis-parts.png"))
    given = parser.parse_args()
    report = diagnose(titled(given.recipes))
    print(table(report))
    draw(report, given.picture)
    write(report, given.to)


if __name__ == "__main__":
    finish(main)
