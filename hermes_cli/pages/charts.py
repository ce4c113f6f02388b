"""What the line charts of a page show: points, lines, and a scale between round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.records import Record


class Point(Record):
    """A place across the chart, from 0 to 1, and a value."""

    x: float
    y: float
    se: float = 0.0
    title: str = ""
    """What hovering says."""
    ringed: bool = False


class Line(Record):
    """Points that a line connects."""

    points: tuple[Point, ...]
    colour: str
    """A class of the stylesheet."""
    dots: bool = False
    """Whether each point has a dot, its value beside it, and error bars."""
    thin: bool = False
    below: bool = False
    """Whether the values stand below their points."""


class Axis(Record):
    """The vertical scale."""

    ticks: tuple[float, ...]

    @property
    def low(self) -> float:
        """The lowest tick."""
        return self.ticks[0]

    @property
    def high(self) -> float:
        """The highest."""
        return self.ticks[-1]

    def height(self, value: float) -> float:
        """Where a value lies: 0 at the top, 100 at the ground; what lies outside is at the edge."""
        share = (value - self.low) / (self.high - self.low)
        return 100 * (1 - min(max(share, 0.0), 1.0))

    def label(self, value: float) -> str:
        """A tick as text, with as many digits as its neighbours need."""
        step = self.ticks[1] - self.ticks[0]
        digits = next((one for one in range(6) if abs(round(step, one) - step) < 1e-9), 6)
        return f"{value:.{digits}f}"


class LineChart(Record):
    """Lines over a grid."""

    about: str
    """What it shows, for those who do not see it."""
    lines: tuple[Line, ...]
    axis: Axis
    across: tuple[tuple[float, str], ...]
    """(place from 0 to 1, label) below it."""
    level: float | None = None
    """The value of a dashed line."""
    dividers: tuple[float, ...] = ()
    band: bool = False
    """Whether the area between the first two lines is filled."""


def axis(values: Sequence[float], parts: int = 4, least: float = 0.02) -> Axis:
    """A scale over the values with about so many parts between even ticks; it spans at least `least`."""
    known = [one for one in values if math.isfinite(one)] or [0.0]
    low, high = min(known), max(known)
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    rough = (high - low) / parts
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(one * scale for one in (1, 2, 2.5, 5, 10) if one * scale >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(ticks=tuple(round(number * step, 10) for number in range(first, max(last, first + 1) + 1)))
