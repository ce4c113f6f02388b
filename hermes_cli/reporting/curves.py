"""Training curves as a picture: loss, margin, accuracy, likelihoods of each side, gradient and rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.logging.metrics import SideMetrics, TrainStep

_COLORS = {"captions": "#2f6fde", "images": "#d9822b"}
_WHOLE = "#444444"


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


def _draw(
    panel: Any, at: Sequence[int], values: np.ndarray, width: int, color: str, label: str, line: str = "-"
) -> None:
    """A running mean; a solid one with its steps as a thin line behind it."""
    if not len(at):
        return
    if line == "-":
        panel.plot(at, values, color=color, alpha=0.2, linewidth=1)
    panel.plot(at, _smooth(values, width), color=color, linewidth=2, linestyle=line, label=label)


def draw_training(steps: Sequence[TrainStep], path: Path, title: str) -> None:
    """Six panels as PNG; thin lines are steps, thick ones a running mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(12, 6.2), layout="constrained")
    loss, margin, accuracy, gain, gradient, rate = panels.flat
    width = max(3, len(steps) // 10)
    at = [step.step for step in steps]
    for side, color in _COLORS.items():
        for panel, field in ((loss, "loss"), (margin, "margin"), (accuracy, "accuracy")):
            _draw(panel, *_series(steps, side, field), width, color, side)
        _draw(gain, *_series(steps, side, "win_gain"), width, color, f"{side}, winner")
        _draw(gain, *_series(steps, side, "lose_gain"), width, color, f"{side}, loser", ":")
    _draw(loss, at, np.array([step.loss for step in steps]), width, _WHOLE, "minimised")
    _draw(gradient, at, np.array([step.grad_norm for step in steps]), width, _WHOLE, "gradient")
    rate.plot(at, [step.learning_rate for step in steps], color=_WHOLE, linewidth=2)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    labels = {
        "loss (nats)": (loss, None),
        "margin (nats, with beta)": (margin, 0.0),
        "pair accuracy": (accuracy, 0.5),
        "log-likelihood gain (nats)": (gain, 0.0),
        "gradient norm before clipping": (gradient, None),
        "learning rate": (rate, None),
    }
    for label, (panel, level) in labels.items():
        _dress(panel, label, level)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    beside = path.with_name(path.name + ".new.png")
    figure.savefig(beside, dpi=130)
    pyplot.close(figure)
    beside.replace(path)


def _dress(panel: Any, label: str, level: float | None) -> None:
    panel.set_xlabel("step")
    panel.set_title(label, fontsize=10, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    if level is not None:
        panel.axhline(level, color="#bbbbbb", linewidth=0.8)
    else:
        panel.set_ylim(bottom=0)
    if len(panel.get_legend_handles_labels()[0]) > 1:
        panel.legend(frameon=False, fontsize=8)
