"""What the rounds took: wall time by stage, and rates of sampling."""

from __future__ import annotations

from hermes_cli.inspection.markup import Markup, tag
from hermes_cli.reporting.records import Report, RoundReport
from hermes_cli.reporting.rounds import duration, short_name

_STAGES = ("curate", "reference", "train", "eval")


def work_part(report: Report) -> Markup:
    """Bars of time, and a table of rates."""
    timed = [one for one in report.rounds if one.stages]
    if not timed:
        return Markup("")
    longest = max(one.seconds for one in timed)
    legend = tag("div", *(tag("span", tag("i", class_=stage), stage) for stage in _STAGES), class_="legend")
    parts = [
        tag("div", tag("h2", "Time and throughput"), legend, class_="heading"),
        tag("div", *(_bar(one, longest) for one in timed), class_="times"),
    ]
    sampled = [one for one in report.rounds if one.throughput]
    if sampled:
        parts.append(tag("div", _rates(sampled), class_="scroll"))
        parts.append(tag("p", "Rates while captions, images or answers were sampled.", class_="note"))
    return tag("section", *parts, class_="card", id="time")


def _bar(one: RoundReport, longest: float) -> Markup:
    """A round's stages to scale."""
    bars = [
        tag(
            "b",
            class_=stage if stage in _STAGES else "other",
            style=f"width:{100 * seconds / longest:.2f}%" if longest else None,
            title=f"{stage}: {duration(seconds)}",
        )
        for stage, seconds in one.stages.items()
    ]
    return tag(
        "div",
        tag("span", short_name(one.round)),
        tag("div", *bars, class_="time"),
        tag("span", duration(one.seconds), class_="number"),
        class_="measure",
    )


def _rates(rounds: list[RoundReport]) -> Markup:
    columns = (
        "", "items", "captions/s", "tokens/s", "images/s", "answers/s", "in the engine", "in forward passes",
        "prefix hits", "mean batch",
    )  # fmt: skip
    rows = []
    for one in rounds:
        speed = one.throughput
        if speed is None:
            continue
        cells = (
            f"{speed.items}",
            f"{speed.captions_per_second:.1f}",
            f"{speed.caption_tokens_per_second:.0f}",
            f"{speed.images_per_second:.2f}",
            f"{speed.answers_per_second:.0f}",
            f"{speed.engine_share:.0%}",
            f"{speed.forward_share:.0%}",
            f"{speed.prefix_hit_rate:.0%}",
            f"{speed.mean_batch:.1f}",
        )
        rows.append(
            tag("tr", tag("th", short_name(one.round)), *(tag("td", cell, class_="number") for cell in cells))
        )
    head = tag("tr", *(tag("th", one, class_="number") for one in columns))
    return tag("table", head, *rows, class_="figures-table")
