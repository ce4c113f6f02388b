"""What `hermes run`, `hermes eval` and `hermes report` print: every round's gap, and what changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from curate.evaluation.clustered import Estimate
from hermes_cli.reporting.records import Report, RoundReport
from hermes_cli.view import printable

_STYLES = {"better": "green", "worse": "red"}


def report_view(report: Report, written: Iterable[Path]) -> RenderableType:
    """Tables, verdicts, notes, and where the report lies."""
    parts: list[RenderableType] = []
    if report.rounds:
        parts += [_gaps(report), Text(), *map(_verdict, report.rounds[1:])]
        parts += [Text(_best(report)), _categories(report.rounds[-1])]
        parts.append(
            Text(
                f"judge of generated images: {report.judge}; ± is one standard error, clustered by item",
                "dim",
            )
        )
    parts += [Text(f"note: {printable(note)}", "yellow") for note in report.notes]
    parts += [Text(f"report: {path}", no_wrap=True, overflow="ignore") for path in written]
    return Group(*parts)


def _gaps(report: Report) -> Table:
    """Understanding, generation and gap of each round, and how far they moved since the round before."""
    table = Table(title="gap: VQA accuracy on real images minus the judge's on generated ones")
    table.title_justify = "left"
    for column in ("round", "understanding", "generation", "gap", "gap since the last", "pairs", "minutes"):
        table.add_column(column, justify="left" if column == "round" else "right", no_wrap=True)
    for one in report.rounds:
        table.add_row(
            ("base" if one.round == 0 else str(one.round)) + (" *" if one.round == report.best else ""),
            f"{one.und:.3f} ± {one.und_se:.3f}",
            f"{one.gen:.3f} ± {one.gen_se:.3f}",
            f"{one.gap:+.3f} ± {one.gap_se:.3f}",
            signed(one.versus_previous.gap) if one.versus_previous else "-",
            f"{one.pairs['captions']}/{one.pairs['images']}" if one.pairs else "-",
            f"{one.seconds / 60:.1f}",
        )
    return table


def signed(one: Estimate) -> str:
    """A difference with its standard error."""
    return f"{one.value:+.3f} ± {one.se:.3f}"


def _verdict(one: RoundReport) -> Text:
    """`round 2 is worse than round 1: generation fell by ...`."""
    before = "the base" if one.round == 1 else f"round {one.round - 1}"
    said = {"unchanged": "is as good as", "not comparable": "is not compared with"}
    words = said.get(one.verdict, f"is {one.verdict} than")
    style = _STYLES.get(one.verdict.removeprefix("perhaps "), "")
    return Text(f"round {one.round} {words} {before}: {one.why}", style)


def _best(report: Report) -> str:
    best = next(one for one in report.rounds if one.round == report.best)
    name = "the base" if best.round == 0 else f"round {best.round}"
    return f"best: {name} (*), gap {best.gap:+.3f}"


def _categories(last: RoundReport) -> Table:
    """The latest round by category."""
    table = Table(title=f"round {last.round} by category" if last.round else "the base by category")
    table.title_justify = "left"
    for column in ("category", "understanding", "generation", "gap", "items"):
        table.add_column(column, justify="left" if column == "category" else "right", no_wrap=True)
    for name, group in last.by_category.items():
        table.add_row(
            Text(printable(name)),
            f"{group.und:.3f} ± {group.und_se:.3f}",
            f"{group.gen:.3f} ± {group.gen_se:.3f}",
            f"{group.gap:+.3f}",
            str(group.items),
        )
    return table
