"""Charts of the inspection page: a stacked histogram as SVG, and bars of shares."""

from __future__ import annotations

import math
from collections.abc import Iterator

from curate.store.overview import Histogram
from hermes_cli.inspection.markup import Markup, join, tag

HEIGHT, STEP, GAP = 100.0, 10.0, 1.4
PARTS = (("won", "winners"), ("lost", "losers"), ("rest", "others"))
"""From the ground up."""


def nice_ceiling(value: int) -> int:
    """The least even round number that is no less: 2, 4, 6, 8, 10, 12, 16, 20, 24, 30, 40, 50, 60..."""
    scale = 10 ** max(0, math.ceil(math.log10(max(value, 1))) - 1)
    rounds = (round(step * scale) for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10))
    return next(one for one in rounds if one >= value and one % 2 == 0)


def histogram_chart(bins: Histogram, what: str) -> Markup:
    """A bar for each bin, stacked by what became of the candidates; hovering tells the counts.

    The drawing stretches to its place; axis labels are text beside it, so that they keep their size.
    """
    top = nice_ceiling(max(bins.totals))
    drawing = tag(
        "svg",
        tag("line", class_="grid", x1=0, x2=len(bins.totals) * STEP, y1=HEIGHT / 2, y2=HEIGHT / 2),
        *(bar for place in range(len(bins.totals)) for bar in _bar(bins, place, HEIGHT / top)),
        viewBox=f"0 0 {len(bins.totals) * STEP:g} {HEIGHT:g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Histogram of {what}",
    )
    scale = tag("div", *(tag("span", f"{top * part:g}") for part in (1, 0.5, 0)), class_="scale")
    return tag("div", scale, tag("div", drawing, class_="plot"), _ticks(bins), class_="histogram")


def _bar(bins: Histogram, place: int, unit: float) -> Iterator[Markup]:
    """The parts of one bar, and over all of it a clear one that tells the counts."""
    counts = {name: getattr(bins, part)[place] for part, name in PARTS}
    bottom, x, width = HEIGHT, place * STEP + GAP / 2, STEP - GAP
    for part, name in PARTS:
        height = counts[name] * unit
        if height:
            bottom -= height
            yield tag(
                "rect", class_=part, x=f"{x:g}", y=f"{bottom:.2f}", width=f"{width:g}", height=f"{height:.2f}"
            )
    if any(counts.values()):
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        title = tag("title", f"{bins.edge(place):.3g} to {bins.edge(place + 1):.3g}: {said}")
        yield tag(
            "rect", title, class_="over", x=f"{place * STEP:g}", y=0, width=f"{STEP:g}", height=f"{HEIGHT:g}"
        )


def _ticks(bins: Histogram) -> Markup:
    """Labels below the bins at every tenth, or every fifth of the unit where they are many."""
    tenths = round((1 - bins.low) * 10)
    every = 2 if tenths > 5 else 1
    labels = [
        tag("span", f"{1 - step / 10:.1f}", style=f"left:{100 * (1 - step / tenths):.2f}%")
        for step in range(0, tenths + 1, every)
    ]
    return tag("div", *labels, class_="ticks")


def legend(bins: Histogram) -> Markup:
    """What the colours of a histogram say, with counts."""
    entries = [
        tag("span", tag("i", class_=part), f"{name} {sum(getattr(bins, part))}") for part, name in PARTS
    ]
    return tag("div", *entries, class_="legend")


def share_bar(value: float, class_: str = "") -> Markup:
    """A bar that fills a share of its width."""
    width = 0.0 if math.isnan(value) else 100 * min(max(value, 0.0), 1.0)
    return tag(
        "div", tag("b", style=f"width:{width:.1f}%"), class_=f"bar {class_}".strip(), aria_hidden="true"
    )


def stacked_bar(*parts: tuple[str, float]) -> Markup:
    """(class, share) one after the other; shares are written into those that are wide enough."""
    cells = [
        tag("b", f"{share:.0%}" if share >= 0.08 else "", class_=name, style=f"width:{100 * share:.2f}%")
        for name, share in parts
        if share > 0
    ]
    return tag("div", *cells, class_="stack")


def sections(*parts: Markup | None) -> Markup:
    """What there is of some parts."""
    return join(*(one for one in parts if one is not None))
