"""The pictures of an experiment: gains by row, the gap over rounds.

On white, which is legible on a dark page too; narrow, with lines and marks that differ in more than colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.experiment.results import Bounds, Results, RowResult

SIDES = (("und", "understanding", "#1f5aa6"), ("gen", "generation", "#c2571a"))
COLORS = ("#1f5aa6", "#c2571a", "#2c8a4b", "#7a4fa3", "#3aa6a6", "#b8860b", "#c03a6b", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINE: dict[str, Any] = {"markersize": 5, "linewidth": 1.6, "capsize": 3}
WIDTH, DPI = 5.6, 160


def draw_all(results: Results, folder: Path, stem: str = "experiment") -> list[Path]:
    """Writes the pictures there is something to show in, and returns their paths; names begin with `stem`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in results.rows if row.rounds and row.rounds[-1].round]
    several = [row for row in rows if row.rounds[-1].round > 1][: len(MARKERS)]
    figures = {"gains": _gains(rows)} if rows else {}
    if several:
        figures["gap"] = _gap(several)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{stem}-{name}.png")
        figure.savefig(paths[-1], dpi=DPI, facecolor="white")
        plt.close(figure)
    return paths


def _gains(rows: Sequence[RowResult]) -> Figure:
    """Each row's last round over the base."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.7 + 0.5 * len(rows)), layout="constrained")
    lasts = [row.rounds[-1] for row in rows]
    rounds = [f", round {one.round}" if one.round > 1 else "" for one in lasts]
    # Wrapped, so that the titles leave most of the width to what they name.
    names = [textwrap.fill(f"{row.title}{which}", 26) for row, which in zip(rows, rounds, strict=True)]
    for (side, name, color), offset, marker in zip(SIDES, (-0.14, 0.14), "os", strict=True):
        gains = [getattr(one, f"{side}_gain") for one in lasts]
        axes.errorbar(
            gains,
            [place + offset for place in range(len(rows))],
            xerr=_errors(gains, [getattr(one, f"{side}_gain_ci") for one in lasts]),
            color=color,
            marker=marker,
            linestyle="",
            label=name,
            **LINE,
        )
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlabel("share of right answers gained")
    _plain(axes)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _gap(rows: Sequence[RowResult]) -> Figure:
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2 + 0.2 * len(rows)), layout="constrained")
    for row, color, marker in zip(rows, COLORS, MARKERS, strict=False):
        values = [one.gap for one in row.rounds]
        axes.errorbar(
            [one.round for one in row.rounds],
            values,
            yerr=_errors(values, [one.gap_ci for one in row.rounds]),
            color=color,
            marker=marker,
            label=row.title,
            **LINE,
        )
    axes.set_ylabel("understanding minus generation")
    last = max(row.rounds[-1].round for row in rows)
    axes.set_xticks(range(last + 1), ["base", *(f"round {number}" for number in range(1, last + 1))])
    _plain(axes)
    figure.legend(loc="outside upper center", ncols=2 if len(rows) <= 2 else 1, frameon=False)
    return figure


def _errors(values: Sequence[float], bounds: Sequence[Bounds]) -> list[list[float]]:
    below = [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)]
    return [below, above]


def _plain(axes: Axes) -> None:
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
