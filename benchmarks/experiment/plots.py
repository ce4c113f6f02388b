"""The pictures of an experiment: gains by row, both sides over rounds, the gap over rounds.

On white, which is legible on a dark page too; narrow, with lines and marks that differ in more than colour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.experiment.results import Bounds, Results, Round, RowResult

UND, GEN = "#1f5aa6", "#c2571a"
COLORS = ("#1f5aa6", "#c2571a", "#2c8a4b", "#7a4fa3", "#3aa6a6", "#b8860b", "#c03a6b", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH, DPI = 5.6, 160


def draw_all(results: Results, folder: Path, stem: str = "experiment") -> list[Path]:
    """Writes the pictures there is something to show in, and returns their paths; names begin with `stem`."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        ("gains", _gains(results)),
        ("sides", _sides(results)),
        ("gap", _gap(results)),
    ]
    paths = []
    for name, figure in drawn:
        if figure is not None:
            paths.append(folder / f"{stem}-{name}.png")
            figure.savefig(paths[-1], dpi=DPI, facecolor="white")
            plt.close(figure)
    return paths


def _trained(results: Results) -> list[RowResult]:
    """Rows that have a trained round."""
    return [row for row in results.rows if row.rounds and row.rounds[-1].round]


def _gains(results: Results) -> plt.Figure | None:
    """Each row's last round over the base."""
    rows = _trained(results)
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 0.7 + 0.42 * len(rows)), layout="constrained")
    sides: tuple[tuple[str, str, str, float], ...] = (
        ("und", "understanding", UND, -0.14),
        ("gen", "generation", GEN, 0.14),
    )
    for side, name, color, offset in sides:
        for place, row in enumerate(rows):
            last = row.rounds[-1]
            value, bounds = getattr(last, f"{side}_gain"), getattr(last, f"{side}_gain_ci")
            axes.errorbar(
                value,
                place + offset,
                xerr=_errors([value], [bounds]),
                color=color,
                marker="o" if side == "und" else "s",
                markersize=5,
                linewidth=1.6,
                capsize=3,
                label=name if not place else None,
            )
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_yticks(range(len(rows)), [_named(row) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("right answers gained, share")
    _plain(axes)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _named(row: RowResult) -> str:
    last = row.rounds[-1].round
    return f"{row.title}, round {last}" if last > 1 else row.title


def _sides(results: Results) -> plt.Figure | None:
    """Both sides of the rows of several rounds."""
    rows = _long(results)
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8), layout="constrained")
    for place, row in enumerate(rows):
        for turn, (side, name, color) in enumerate(
            (("und", "understanding", UND), ("gen", "generation", GEN))
        ):
            marker = MARKERS[(2 * place + turn) % len(MARKERS)]
            _line(axes, row, side, color, marker, f"{name}, {row.title}", dashed=bool(place))
    axes.set_ylabel("right answers, share")
    _over_rounds(axes, rows)
    figure.legend(loc="outside upper center", ncols=1 if len(rows) > 1 else 2, frameon=False)
    return figure


def _gap(results: Results) -> plt.Figure | None:
    rows = _long(results)
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2 + 0.2 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        _line(axes, row, "gap", COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)], row.title)
    axes.set_ylabel("understanding minus generation")
    _over_rounds(axes, rows)
    figure.legend(loc="outside upper center", ncols=2 if len(rows) <= 2 else 1, frameon=False)
    return figure


def _long(results: Results) -> list[RowResult]:
    """Rows of several rounds."""
    return [row for row in _trained(results) if row.rounds[-1].round > 1][: len(MARKERS)]


def _line(
    axes: Axes, row: RowResult, side: str, color: str, marker: str, label: str, dashed: bool = False
) -> None:
    read: Callable[[Round], float] = lambda one: getattr(one, side)  # noqa: E731
    values = [read(one) for one in row.rounds]
    axes.errorbar(
        [one.round for one in row.rounds],
        values,
        yerr=_errors(values, [getattr(one, f"{side}_ci") for one in row.rounds]),
        color=color,
        marker=marker,
        markersize=5,
        linewidth=1.6,
        linestyle="--" if dashed else "-",
        capsize=3,
        label=label,
    )


def _errors(values: Sequence[float], bounds: Sequence[Bounds]) -> list[list[float]]:
    below = [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)]
    return [below, above]


def _over_rounds(axes: Axes, rows: Sequence[RowResult]) -> None:
    last = max(row.rounds[-1].round for row in rows)
    axes.set_xticks(range(last + 1), ["base", *(f"round {number}" for number in range(1, last + 1))])
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
