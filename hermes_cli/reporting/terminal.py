"""What `hermes run`, `hermes eval` and `hermes report` print: every round's gap, and what changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hermes_cli.reporting.records import RoundReport, RunReport
from hermes_cli.view import plain_table, printable, round_name, signed, signed_estimate

_STYLES = {"better": "green", "worse": "red"}


def report_view(report: RunReport, written: Iterable[Path]) -> RenderableType:
    """Tables, verdicts, notes, and where the report lies."""
    parts: list[RenderableType] = []
    if report.rounds:
        last = report.rounds[-1]
        judged = f"judge of generated images: {last.judge}; ± is one standard error, clustered by item"
        parts += [_gaps(report), Text(), *map(_verdict, report.rounds[1:]), _best(report)]
        parts += [Text(), _categories(last), Text(judged, "dim")]
    parts += [Text(f"note: {printable(note)}", "yellow") for note in report.notes]
    parts += [Text(f"report: {path}", no_wrap=True, overflow="ignore") for path in written]
    return Group(*parts)


def _gaps(report: RunReport) -> Table:
    """Understanding, generation and gap of each round, and how far they moved since the round before."""
    columns = ("round", "understanding", "generation", "gap", "gap since the last", "pairs", "minutes")
    title = "gap: VQA accuracy on real images minus the judge's on generated ones"
    table = plain_table(*columns, title=title)
    for one in report.rounds:
        table.add_row(
            round_name(one.round) + (" *" if one.round == report.best else ""),
            f"{one.und:.3f} ± {one.und_se:.3f}",
            f"{one.gen:.3f} ± {one.gen_se:.3f}",
            f"{signed(one.gap)} ± {one.gap_se:.3f}",
            signed_estimate(one.versus_previous.gap) if one.versus_previous else "-",
            f"{one.pairs['captions']}/{one.pairs['images']}" if one.pairs else "-",
            f"{one.seconds / 60:.1f}",
        )
    return table


def _verdict(one: RoundReport) -> Text:
    """`round 2 is worse than round 1: generation fell by ...`."""
    before = "the base" if one.round == 1 else f"round {one.round - 1}"
    said = {"no clear change": "shows no clear change from", "not comparable": "is not compared with"}
    words = said.get(one.verdict, f"is {one.verdict} than")
    style = _STYLES.get(one.verdict, "")
    return Text(f"round {one.round} {words} {before}: {one.why}", style)


def _best(report: RunReport) -> Text:
    if report.best is None:
        return Text("best: none, since no measurement of the base counts")
    best = next(one for one in report.rounds if one.round == report.best)
    name = "the base" if best.round == 0 else f"round {best.round}"
    return Text(f"best: {name} (*), gap {signed(best.gap)}")


def _categories(last: RoundReport) -> Table:
    """The latest round by category."""
    columns = ("category", "understanding", "generation", "gap", "items")
    table = plain_table(*columns, title=f"{round_name(last.round)} by category")
    for name, group in last.by_category.items():
        table.add_row(
            Text(printable(name)),
            f"{group.und:.3f} ± {group.und_se:.3f}",
            f"{group.gen:.3f} ± {group.gen_se:.3f}",
            signed(group.gap),
            str(group.items),
        )
    return table
