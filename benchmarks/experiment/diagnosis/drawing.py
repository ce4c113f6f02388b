"""How the pictures of the diagnoses are made: on white, and legible on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

WIDTH, DPI = 7.2, 150


def subplots(rows: int, columns: int, height: float = 3.4) -> tuple[plt.Figure, Any]:
    """A figure with a light grid in every panel."""
    figure, panels = plt.subplots(rows, columns, figsize=(WIDTH, height * rows), layout="constrained")
    for axes in figure.axes:
        axes.grid(color="0.93", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, panels


def legend_below(axes: Any, columns: int = 2) -> None:
    """Names of the lines under a panel, where they hide nothing."""
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=columns, frameon=False, fontsize=8, borderpad=0
    )


def save(figure: plt.Figure, to: Path) -> None:
    """Writes a PNG."""
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, dpi=DPI, facecolor="white")
    plt.close(figure)
