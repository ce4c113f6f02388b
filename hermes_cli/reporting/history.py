"""What the run did and when: each stage with its end, those that failed or were cut off among them."""

from __future__ import annotations

from collections.abc import Sequence

from hermes_cli.inspection.markup import Markup, tag
from hermes_cli.reporting.rounds import duration, short_name
from hermes_cli.run.state import Attempt
from hermes_cli.view import moment

_TURNS = {"failed": "wrong", "cut off": "wrong", "stopped": "wrong"}


def history_part(attempts: Sequence[Attempt]) -> Markup:
    """A table, folded up; nothing for a run that kept no log."""
    if not attempts:
        return Markup("")
    head = tag("tr", *(tag("th", one) for one in ("", "", "begun", "took", "end", "weights", "engine", "")))
    table = tag("table", head, *map(_row, attempts), class_="figures-table")
    troubles = sum(one.end in _TURNS for one in attempts)
    said = f"{len(attempts)} entries, {troubles} of which did not come to their end"
    note = (
        "In the time of the machine that wrote this page. Cut off: the process was killed. "
        "Engine: swaps of weights since its start."
    )
    return tag(
        "section",
        tag("h2", "What happened when"),
        tag(
            "details", tag("summary", said), tag("div", table, class_="scroll"), tag("p", note, class_="note")
        ),
        class_="card",
        id="history",
    )


def _row(one: Attempt) -> Markup:
    cells = (
        moment(one.first.time),
        "" if one.took is None else duration(one.took),
        tag("span", one.end, class_=_TURNS.get(one.end)),
        one.last.weights,
        "" if one.last.engine is None else str(one.last.engine),
        one.last.reason,
    )
    name = "" if one.first.stage == "run" else short_name(one.first.round)
    return tag("tr", tag("th", name), tag("th", one.first.stage), *(tag("td", cell) for cell in cells))
