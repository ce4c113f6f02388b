"""Draws docs/images/objectives.png: each objective's loss over the two margins, and where descent moves them.

Colours are the loss, arrows the step that gradient descent takes in the plane of the margins, drawn as if the
margins could be moved one by one; an arrow's length is the slope. Values come from `train.losses.objectives`
itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

from train.config import TrainConfig
from train.losses.objectives import Margins, pair_dpo

REACH = 3.0
PANELS = {
    "sum": TrainConfig(objective="sum"),
    "product (Eq. 6)": TrainConfig(objective="product"),
    "softmin": TrainConfig(objective="softmin"),
}


def field(config: TrainConfig, points: int) -> tuple[np.ndarray, ...]:
    """Caption margins, image margins, loss and both slopes on a square grid, each [points, points]."""
    line = torch.linspace(-REACH, REACH, points, dtype=torch.float64)
    images, captions = (grid.flatten().requires_grad_() for grid in torch.meshgrid(line, line, indexing="ij"))
    has = torch.ones(points**2, dtype=torch.bool)
    loss, _ = pair_dpo(Margins(captions, images, has, has), config)
    loss.sum().backward()
    assert captions.grad is not None
    assert images.grad is not None
    parts = captions.detach(), images.detach(), loss.detach(), captions.grad, images.grad
    return tuple(part.view(points, points).numpy() for part in parts)


def panel(axes: Axes, name: str, config: TrainConfig) -> None:
    """One objective."""
    captions, images, loss, _, _ = field(config, 161)
    levels = np.linspace(0, 6, 25)
    axes.contourf(captions, images, np.minimum(loss, 6), levels, cmap="Blues")
    captions, images, _, down, left = field(config, 13)
    axes.quiver(captions, images, -down, -left, color="#333333", scale=14, width=0.005, pivot="mid")
    flat = np.hypot(down, left) < 1e-9
    axes.plot(captions[flat], images[flat], "o", color="#c2571a", markersize=5)
    worse = (-down < -1e-9) | (-left < -1e-9)
    axes.plot(captions[worse], images[worse], ".", color="#c2571a", markersize=2.5)
    axes.axhline(0, color="white", linewidth=0.8)
    axes.axvline(0, color="white", linewidth=0.8)
    axes.set_title(name, fontsize=10, loc="left")
    axes.set_aspect("equal")


def draw(to: Path) -> None:
    """Writes the picture."""
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.8), layout="constrained", sharey=True)
    for axes, (name, config) in zip(panels, PANELS.items(), strict=True):
        panel(axes, name, config)
        axes.set_xlabel("caption margin")
    panels[0].set_ylabel("image margin")
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, dpi=130)
    plt.close(figure)


def main() -> None:
    """Draws to where the docs look for it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path("docs/images/objectives.png"))
    given = parser.parse_args()
    draw(given.to)
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
