"""Line charts as SVG that stretches to its place; what is text stands beside it, so that it keeps its size.

Strokes do not scale, so a line of no length with round caps is a dot whatever the drawing is stretched to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from engine.records import Record
from hermes_cli.inspection.charts import sections
from hermes_cli.inspection.markup import Markup, tag


class Point(Record):
    """A place across the chart, from 0 to 1, and a value."""

    x: float
    y: float
    se: float = 0.0
    told: str = ""
    """What hovering says."""
    label: str = ""
    """Written beside it."""
    marked: bool = False
    below: bool = False
    """Whether the label stands below the point."""


class Line(Record):
    """Points that a line connects."""

    points: tuple[Point, ...]
    class_: str
    dots: bool = False
    thin: bool = False


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


def chart(
    lines: Sequence[Line],
    scale: Axis,
    across: Sequence[tuple[float, str]],
    what: str,
    *,
    level: float | None = None,
    dividers: Sequence[float] = (),
    band: tuple[Line, Line] | None = None,
) -> Markup:
    """The lines over a grid. `across` are labels below it, by place; `level` is a dashed line at a value;
    `band` fills what lies between two lines."""
    grid = [_stroke("grid", 0, scale.height(one), 100, scale.height(one)) for one in scale.ticks[:-1]]
    grid += [_stroke("divider", 100 * place, 0, 100 * place, 100) for place in dividers]
    filled = [_band(*band, scale)] if band else []
    dashed = [_stroke("level", 0, scale.height(level), 100, scale.height(level))] if level is not None else []
    drawing = tag(
        "svg",
        *grid,
        *filled,
        *dashed,
        *(part for line in lines for part in _drawn(line, scale)),
        viewBox="0 0 100 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=what,
    )
    labels = [label for line in lines for label in _labels(line, scale)]
    marks = [
        tag("span", scale.label(one), style=f"top:{scale.height(one):.2f}%") for one in reversed(scale.ticks)
    ]
    below = [tag("span", text, style=f"left:{100 * place:.2f}%") for place, text in across]
    return tag(
        "div",
        tag("div", *marks, class_="marks", aria_hidden="true"),
        tag("div", drawing, *labels, class_="plot"),
        tag("div", *below, class_="ticks"),
        class_="chart",
    )


def _stroke(class_: str, x1: float, y1: float, x2: float, y2: float, told: str = "") -> Markup:
    title = tag("title", told) if told else None
    ends = {"x1": f"{x1:.3f}", "y1": f"{y1:.3f}", "x2": f"{x2:.3f}", "y2": f"{y2:.3f}"}
    return tag("line", sections(title), class_=class_, **ends)


def _places(points: Sequence[Point], scale: Axis) -> str:
    return " ".join(f"{100 * one.x:.3f},{scale.height(one.y):.3f}" for one in points)


def _band(upper: Line, lower: Line, scale: Axis) -> Markup:
    around = [*upper.points, *reversed(lower.points)]
    return tag("polygon", class_="band", points=_places(around, scale))


def _drawn(line: Line, scale: Axis) -> Iterator[Markup]:
    """A line; around its dots, two standard errors thinly and one boldly."""
    weight = "thin" if line.thin else "bold"
    if len(line.points) > 1:
        yield tag("polyline", class_=f"{line.class_} {weight}", points=_places(line.points, scale))
    if not line.dots:
        return
    for one in line.points:
        x, y = 100 * one.x, scale.height(one.y)
        for errors, class_ in ((2, "whisker"), (1, "error")):
            if one.se > 0:
                ends = (scale.height(one.y + errors * one.se), scale.height(one.y - errors * one.se))
                yield _stroke(f"{line.class_} {class_}", x, ends[0], x, ends[1])
        if one.marked:
            yield _stroke(f"{line.class_} dot ring", x, y, x, y)
            yield _stroke("dot hole", x, y, x, y)
        yield _stroke(f"{line.class_} dot", x, y, x, y, one.told)


def _labels(line: Line, scale: Axis) -> Iterator[Markup]:
    for one in line.points:
        if one.label:
            side = "below" if one.below else ""
            yield tag(
                "span",
                one.label,
                class_=f"value {line.class_} {side}".strip(),
                style=f"left:{100 * one.x:.2f}%;top:{scale.height(one.y):.2f}%",
            )


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Mean over a centred window that shrinks at the ends."""
    half = width // 2
    windows = (values[max(0, place - half) : place + half + 1] for place in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def thinned(points: Sequence[Point], most: int = 400) -> list[Point]:
    """No more than `most` points: means of as many neighbours as that takes."""
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), max(size, 1))]
    return [
        Point(x=sum(one.x for one in group) / len(group), y=sum(one.y for one in group) / len(group))
        for group in groups
    ]
