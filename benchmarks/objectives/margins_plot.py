"""The picture of `benchmarks.objectives.margins`: margins and winners' likelihoods over training steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

COLORS = ("#1f5aa6", "#8a8a8a", "#c2571a", "#2c8a4b", "#7a4fa3", "#3aa6a6", "#b8860b", "#c03a6b")
PANELS = (
    ("caption_margin", "caption margin"),
    ("image_margin", "image margin"),
    ("caption_win_gain", "captions: winner's log-likelihood gain"),
    ("image_win_gain", "images: winner's log-likelihood gain"),
)


class Curves(Protocol):
    """What is drawn of one objective, a number a step."""

    caption_margin: tuple[float, ...]
    image_margin: tuple[float, ...]
    caption_win_gain: tuple[float, ...]
    image_win_gain: tuple[float, ...]


def smooth(values: Sequence[float], width: int) -> np.ndarray:
    """Mean over the latest `width` steps, or as many as there are."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - width, 0)
    return (sums[stop] - sums[start]) / (stop - start)


def draw(curves: Mapping[str, Curves], to: Path) -> None:
    """Writes a PNG of four panels; a line is the mean over the latest tenth of the steps."""
    figure, panels = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained", sharex=True)
    for axes, (field, title) in zip(panels.flat, PANELS, strict=True):
        for (name, curve), color in zip(curves.items(), COLORS, strict=False):
            values = getattr(curve, field)
            if values:
                shown = smooth(values, max(1, len(values) // 10))
                axes.plot(range(1, len(values) + 1), shown, color=color, linewidth=1.5, label=name)
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_ylabel("nats, with beta" if "margin" in field else "nats")
        axes.grid(color="0.93", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[1]:
        axes.set_xlabel("step")
    handles, labels = [], []
    for axes in panels.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, dpi=130)
    plt.close(figure)
