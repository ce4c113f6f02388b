"""Training curves as a picture: margin, accuracy and likelihoods of each side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.metrics import SideMetrics, TrainStep

_COLORS = {"captions": "#2f6fde", "images": "#d9822b"}


def _series(steps: Sequence[TrainStep], side: str, field: str) -> tuple[list[int], np.ndarray]:
    found: list[tuple[int, SideMetrics]] = [
        (step.step, metrics) for step in steps if (metrics := getattr(step, side)) is not None
    ]
    return [number for number, _ in found], np.array([getattr(one, field) for _, one in found])


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over a centred window that shrinks at the ends."""
    sums = np.concatenate(([0.0], values.cumsum()))
    low = np.maximum(np.arange(len(values)) - width // 2, 0)
    high = np.minimum(np.arange(len(values)) + width // 2 + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def draw_training(steps: Sequence[TrainStep], path: Path, title: str) -> None:
    """Three panels as PNG; thin lines are steps, thick ones a running mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    width = max(3, len(steps) // 10)
    for side, color in _COLORS.items():
        for panel, field in ((panels[0], "margin"), (panels[1], "accuracy"), (panels[2], "win_gain")):
            at, values = _series(steps, side, field)
            if len(at):
                panel.plot(at, values, color=color, alpha=0.2, linewidth=1)
                name = f"{side}, winner" if field == "win_gain" else side
                panel.plot(at, _smooth(values, width), color=color, linewidth=2, label=name)
        at, values = _series(steps, side, "lose_gain")
        if len(at):
            panels[2].plot(
                at, _smooth(values, width), color=color, linewidth=2, linestyle=":", label=f"{side}, loser"
            )
    for panel, label in zip(
        panels, ("margin (nats, with beta)", "pair accuracy", "log-likelihood gain (nats)"), strict=True
    ):
        panel.set_xlabel("step")
        panel.set_title(label, fontsize=10, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
        panel.axhline(0.5 if panel is panels[1] else 0.0, color="#bbbbbb", linewidth=0.8)
        panel.legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    beside = path.with_name(path.name + ".new.png")
    figure.savefig(beside, dpi=130)
    pyplot.close(figure)
    beside.replace(path)
