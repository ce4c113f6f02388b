"""Training curves as a picture: loss, margin, accuracy, likelihoods of each side, gradient and rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hermes_cli.reporting.training import smooth, step_values
from train.logging.metrics import TrainStep

_COLOURS = {"captions": "#2f6fde", "images": "#d9822b"}
_WHOLE = "#444444"
_PANELS: dict[str, tuple[float | None, dict[str, str]]] = {
    "loss (nats)": (None, {"captions.loss": "captions", "images.loss": "images", "loss": "minimised"}),
    "margin (nats, with beta)": (0.0, {"captions.margin": "captions", "images.margin": "images"}),
    "pair accuracy": (0.5, {"captions.accuracy": "captions", "images.accuracy": "images"}),
    "log-likelihood gain (nats)": (
        0.0,
        {
            f"{side}.{field}": f"{side}, {name}"
            for side in _COLOURS
            for field, name in (("win_gain", "winner"), ("lose_gain", "loser"))
        },
    ),
    "gradient norm before clipping": (None, {"grad_norm": "gradient"}),
    "learning rate": (None, {"learning_rate": "rate"}),
}
"""Title -> (level, field of a step -> label)."""


def draw_training(steps: Sequence[TrainStep], path: Path, title: str) -> None:
    """Six panels as PNG; thin lines are steps, thick ones a running mean, dotted ones losers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(12, 6.2), layout="constrained")
    for panel, (name, (level, fields)) in zip(panels.flat, _PANELS.items(), strict=True):
        for field, label in fields.items():
            _draw(panel, steps, field, label)
        panel.set_xlabel("step")
        panel.set_title(name, fontsize=10, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
        if level is None:
            panel.set_ylim(bottom=0)
        else:
            panel.axhline(level, color="#bbbbbb", linewidth=0.8)
        if len(panel.get_legend_handles_labels()[0]) > 1:
            panel.legend(frameon=False, fontsize=8)
    panels.flat[-1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    beside = path.with_name(path.name + ".new.png")
    figure.savefig(beside, dpi=130)
    pyplot.close(figure)
    beside.replace(path)


def _draw(panel: Any, steps: Sequence[TrainStep], field: str, label: str) -> None:
    """A running mean, with its steps as a thin line behind it; nothing where no step has the field."""
    places, values = step_values(steps, field)
    if not places:
        return
    at = np.array([steps[place].step for place in places])
    colour = _COLOURS.get(field.partition(".")[0], _WHOLE)
    loser = field.endswith("lose_gain")
    if not loser:
        panel.plot(at, values, color=colour, alpha=0.2, linewidth=1)
    # The rate is set, not measured.
    mean = values if field == "learning_rate" else smooth(values, max(3, len(steps) // 10))
    panel.plot(at, mean, color=colour, linewidth=2, linestyle=":" if loser else "-", label=label)
