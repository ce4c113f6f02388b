"""Scenes of one to four coloured shapes, their pixels, and the facts that a caption may state.

A canvas is CANVAS x CANVAS pixels in GRID x GRID cells; a cell holds at most one object, placed with a
jitter that keeps a one-pixel margin, so that two objects never touch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.records import Record

CANVAS = 48
GRID = 3
CELL = CANVAS // GRID
SHAPES = ("circle", "square", "triangle", "cross")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 165, 70),
    "blue": (45, 85, 220),
    "yellow": (245, 205, 45),
    "purple": (150, 60, 190),
    "black": (30, 30, 35),
}
BACKGROUND = (240, 240, 236)
NUMBERS = ("zero", "one", "two", "three", "four")
MAX_OBJECTS = 4
_PLACES = {10: (2, 4), 12: (1, 3)}
"""Size in pixels -> offsets of the bounding box inside its cell."""


class Placed(Record):
    """One object: what it is and where its bounding box lies, in pixels."""

    shape: str
    color: str
    size: int
    left: int
    top: int


class Group(Record):
    """`count` objects of one shape; `color` is None where the caption leaves it open."""

    shape: str
    count: int
    color: str | None = None


class Facts(Record):
    """What a caption states about its image, which holds these groups and nothing else."""

    groups: tuple[Group, ...]
    relation: str | None = None
    """left, right, above or below: where the first group's object lies as seen from the second's."""

    @property
    def total(self) -> int:
        """Number of objects."""
        return sum(group.count for group in self.groups)


class Scene(Record):
    """The objects of one image."""

    objects: tuple[Placed, ...]


def silhouette(shape: str, height: int, width: int) -> NDArray[np.bool_]:
    """Pixels of a shape that fills a bounding box, [height, width]."""
    y = (np.arange(height)[:, None] + 0.5) / height
    x = (np.arange(width)[None, :] + 0.5) / width
    if shape == "square":
        return np.ones((height, width), bool)
    if shape == "circle":
        return (x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.25
    if shape == "triangle":
        return np.abs(x - 0.5) <= y / 2 + 0.25 / width
    if shape == "cross":
        return (np.abs(x - 0.5) <= 1 / 6) | (np.abs(y - 0.5) <= 1 / 6)
    raise ValueError(f"unknown shape {shape!r}")


def render(scene: Scene) -> NDArray[np.uint8]:
    """Pixels of a scene, [CANVAS, CANVAS, 3]."""
    canvas = np.full((CANVAS, CANVAS, 3), BACKGROUND, np.uint8)
    for placed in scene.objects:
        window = canvas[placed.top : placed.top + placed.size, placed.left : placed.left + placed.size]
        window[silhouette(placed.shape, placed.size, placed.size)] = COLORS[placed.color]
    return canvas


def relation_between(dx: float, dy: float) -> str | None:
    """Where a thing lies that is displaced by (dx, dy) pixels; None where the direction is not clear."""
    if abs(dx) >= 1.5 * abs(dy) and abs(dx) >= CELL / 2:
        return "right" if dx > 0 else "left"
    if abs(dy) >= 1.5 * abs(dx) and abs(dy) >= CELL / 2:
        return "below" if dy > 0 else "above"
    return None


def place(facts: Facts, rng: np.random.Generator) -> Scene:
    """A scene of which the facts are true; what they leave open is drawn."""
    cells = _cells(facts, rng)
    objects = []
    for group in facts.groups:
        color = group.color or str(rng.choice(tuple(COLORS)))
        for _ in range(group.count):
            row, column = cells.pop(0)
            size = int(rng.choice(tuple(_PLACES)))
            left, top = rng.choice(_PLACES[size], 2)
            objects.append(
                Placed(
                    shape=group.shape,
                    color=color,
                    size=size,
                    left=int(column * CELL + left),
                    top=int(row * CELL + top),
                )
            )
    return Scene(objects=tuple(objects))


def _cells(facts: Facts, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Cells for every object; with a relation, two cells of one row or one column in that order."""
    if facts.relation is None:
        order = rng.permutation(GRID * GRID)[: facts.total]
        return [(int(cell) // GRID, int(cell) % GRID) for cell in order]
    near, far = sorted(rng.choice(GRID, 2, replace=False).tolist())
    line = int(rng.integers(GRID))
    first, second = (near, far) if facts.relation in ("left", "above") else (far, near)
    if facts.relation in ("left", "right"):
        return [(line, first), (line, second)]
    return [(first, line), (second, line)]
