"""What a person sees: progress bars with rate and ETA, and tables of the gap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from hermes_cli.report import RoundReport

console = Console()
if not console.is_terminal:
    # A log or a pipe has no width of its own, and the tables need this much.
    console = Console(width=110)


class Advance(Protocol):
    """Moves a bar on; may change its note and its total."""

    def __call__(self, count: int, note: str = "", total: int | None = None) -> None: ...


class _Rate(ProgressColumn):
    """Items per second since the start of the task."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="cyan")


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Advance]:
    """A bar with rate and ETA; the yielded function advances it."""
    bar = Progress(
        TextColumn("{task.description}", style="bold"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=console,
    )
    with bar:
        task = bar.add_task(label, total=total, note="")

        def advance(count: int, note: str = "", total: int | None = None) -> None:
            bar.update(task, advance=count, total=total)
            if note:
                bar.update(task, note=note)

        yield advance


def say(text: str) -> None:
    """One line to a person."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def gap_table(rounds: list[RoundReport], title: str) -> Table:
    """Understanding, generation and gap of each round, with standard errors."""
    table = Table(title=title, title_justify="left")
    for column in ("round", "understanding", "generation", "gap", "caption/image pairs", "minutes"):
        table.add_column(column, justify="left" if column == "round" else "right", no_wrap=True)
    for one in rounds:
        pairs = f"{one.pairs['captions']}/{one.pairs['images']}" if one.pairs else "-"
        table.add_row(
            "base" if one.round == 0 else str(one.round),
            f"{one.und:.3f} ± {one.und_se:.3f}",
            f"{one.gen:.3f} ± {one.gen_se:.3f}",
            f"{one.gap:+.3f} ± {one.gap_se:.3f}",
            pairs,
            f"{one.seconds / 60:.1f}",
        )
    return table


def category_table(last: RoundReport) -> Table:
    """The latest round by GenEval category."""
    table = Table(title=f"round {last.round} by category", title_justify="left")
    for column in ("category", "understanding", "generation", "gap", "items"):
        table.add_column(column, justify="left" if column == "category" else "right", no_wrap=True)
    for name, group in last.by_category.items():
        table.add_row(
            name,
            f"{group.und:.3f} ± {group.und_se:.3f}",
            f"{group.gen:.3f} ± {group.gen_se:.3f}",
            f"{group.gap:+.3f}",
            str(group.items),
        )
    return table


def show_gap(rounds: list[RoundReport], judge: str, report: Path) -> None:
    """Both tables and where the report lies."""
    console.print(gap_table(rounds, "gap: VQA accuracy on real images minus the judge's on generated ones"))
    console.print(category_table(rounds[-1]))
    say(f"judge of generated images: {judge}; ± is one standard error, clustered by item")
    say(f"report: {report}")


def encode_pretty(record: object) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(record))
