"""The plot of cost(n) / cost(1), beside the numbers it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

Point = tuple[int, float, tuple[float, float]]
"""n, cost, and the smallest and largest cost of a round."""

COLORS = ("#1f5aa6", "#c2571a", "#2c8a4b", "#7a4fa3")
MARKERS = ("o", "s", "^", "D")


def draw(curves: Mapping[str, Sequence[Point]], beside: Path) -> None:
    """Writes a PNG and an SVG under the name of the file that holds the numbers."""
    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    sizes = sorted({n for points in curves.values() for n, _, _ in points})
    axes.plot(sizes, sizes, color="0.6", linestyle="--", linewidth=1, label="n calls of one")
    for (name, points), color, marker in zip(curves.items(), COLORS, MARKERS, strict=False):
        n, cost = [point[0] for point in points], [point[1] for point in points]
        low = [max(0.0, one - spread[0]) for _, one, spread in points]
        high = [max(0.0, spread[1] - one) for _, one, spread in points]
        axes.errorbar(
            n,
            cost,
            yerr=(low, high),
            color=color,
            marker=marker,
            markersize=4,
            linewidth=1.4,
            capsize=2,
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel="candidates n", ylabel="cost(n) / cost(1)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(sizes))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(ScalarFormatter())
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    beside.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(beside.with_suffix(suffix), dpi=160)
    plt.close(figure)
