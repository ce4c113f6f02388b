"""Understanding and generation by category, kind of question and number of objects."""

from __future__ import annotations

from curate.evaluation.records import CategoryGap
from hermes_cli.inspection.markup import Markup, join, tag
from hermes_cli.reporting.records import Report
from hermes_cli.reporting.rounds import short_name, signed


def groups_part(report: Report) -> Markup:
    """A table of each grouping: a row a group, a column a round."""
    if not report.rounds:
        return Markup("")
    tables = [
        _table(report, name, field)
        for name, field in (
            ("Category", "by_category"),
            ("Kind of question", "by_kind"),
            ("Objects in the image", "by_objects"),
        )
    ]
    legend = tag(
        "div",
        tag("span", tag("i", class_="gen"), "generation"),
        tag("span", tag("i", class_="und"), "understanding"),
        tag("span", "the bar between them is the gap, on a scale from 0 to 1"),
        class_="legend",
    )
    return tag("section", tag("h2", "Where the gap is"), legend, *tables, class_="card groups", id="groups")


def _table(report: Report, name: str, field: str) -> Markup:
    names = list(dict.fromkeys(key for one in report.rounds for key in getattr(one, field)))
    head = [tag("th", name), tag("th", "items", class_="number")]
    head += [tag("th", short_name(one.round)) for one in report.rounds]
    rows = []
    for key in names:
        found = [getattr(one, field).get(key) for one in report.rounds]
        items = next((one.items for one in found if one), 0)
        rows.append(
            tag("tr", tag("th", key), tag("td", str(items), class_="number"), *(_cell(one) for one in found))
        )
    return tag("div", tag("table", tag("tr", *head), *rows), class_="scroll")


def _cell(one: CategoryGap | None) -> Markup:
    """Both accuracies on a scale from 0 to 1, and in figures."""
    if one is None:
        return tag("td", "-")
    low, high = sorted((one.und, one.gen))
    told = (
        f"understanding {one.und:.3f} ± {one.und_se:.3f}, generation {one.gen:.3f} ± {one.gen_se:.3f}, "
        f"gap {signed(one.gap)}"
    )
    scale = tag(
        "div",
        tag("b", style=f"left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"),
        tag("i", class_="gen", style=f"left:{100 * one.gen:.1f}%"),
        tag("i", class_="und", style=f"left:{100 * one.und:.1f}%"),
        class_="dumbbell",
        aria_hidden="true",
    )
    figures = tag(
        "div",
        tag("span", f"{one.gen:.2f}", class_="gen"),
        join(tag("small", signed(one.gap, 2))),
        tag("span", f"{one.und:.2f}", class_="und"),
        class_="figures",
    )
    return tag("td", scale, figures, title=told)
