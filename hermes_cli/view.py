"""What a person sees while a command works: lines, and progress bars with rate and ETA."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Protocol

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
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from curate.evaluation.clustered import Estimate

console = Console()
if not console.is_terminal:
    # A log or a pipe has no width of its own, and the tables need this much.
    console = Console(width=110)


SILENCE = 30.0
"""Seconds after which a log hears how far a stage is."""


class Advance(Protocol):
    """Moves a bar on; may change its note and its total. A note that is called is asked again and again."""

    def __call__(self, count: int, note: str | Callable[[], str] = "", total: int | None = None) -> None: ...


class _Rate(ProgressColumn):
    """Items a second, or in as long a time as makes one."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0.0
        units = (("s", 1), ("min", 60), ("h", 3600))
        unit, seconds = next((one for one in units if speed * one[1] >= 1), units[-1])
        return Text(f"{speed * seconds:.1f}/{unit}" if speed else "", style="cyan")


class _Notes(ProgressColumn):
    """What a stage says of itself, in the room that is left."""

    def render(self, task: Task) -> Text:
        live = task.fields["live"]
        said = ("" if task.finished else live(), task.fields["note"])
        return Text("  ".join(filter(None, said)), style="dim")


@contextmanager
def progress_bar(label: str, total: int | None) -> Iterator[Advance]:
    """A bar with rate and ETA; the yielded function advances it. A total of None is known at the end.

    Where output is no terminal it is a line, twice a minute and at the end.
    """
    ended, shown = Event(), console.is_terminal
    room = Column(ratio=1, no_wrap=True, overflow="ellipsis") if shown else Column(no_wrap=True)
    bar = Progress(
        TextColumn("{task.description}", style="bold"),
        *([BarColumn(bar_width=min(40, console.width // 8))] if shown else []),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        _Notes(room),
        console=console,
        # The steps of a large model take minutes.
        speed_estimate_period=3600,
        expand=shown,
        transient=True,
        disable=not shown,
    )
    task = bar.add_task(label, total=total, note="", live=str)

    def advance(count: int, note: str | Callable[[], str] = "", total: int | None = None) -> None:
        bar.advance(task, count)
        if total is not None:
            bar.update(task, total=total)
        if callable(note):
            bar.update(task, live=note)
        elif note:
            bar.update(task, note=note)

    def line() -> None:
        (console if shown else Console(width=200)).print(bar)

    def log() -> None:
        while not ended.wait(SILENCE):
            line()

    if not shown:
        Thread(target=log, daemon=True).start()
    try:
        with bar:
            yield advance
        if total is None:
            bar.update(task, total=bar.tasks[task].completed)
    finally:
        ended.set()
        if bar.tasks[task].completed:
            line()


def say(text: str) -> None:
    """One line to a person."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """One line without control characters: captions and answers may hold anything."""
    return "".join(
        one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in " ".join(text.split())
    )


def plain_table(*columns: str, title: str = "", headed: bool = True, left: Container[str] = ()) -> Table:
    """A table without lines: its first column and those named in `left` to the left, the others, numbers, to
    the right; only the first wraps."""
    name = Text(printable(title), "bold") if title else None
    table = Table(title=name, title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=headed)
    for place, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if place and column not in left else "left",
            header_style="dim",
            no_wrap=bool(place),
        )
    return table


def counted(count: int, noun: str) -> str:
    """`1 item`, `2 items`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def round_name(number: int) -> str:
    """A round as tables and axes call it."""
    return "base" if number == 0 else f"round {number}"


def format_estimate(one: Estimate) -> str:
    """`0.912 ± 0.004`; a dash where nothing was counted."""
    return "-" if math.isnan(one.value) else f"{one.value:.3f} ± {one.se:.3f}"


def signed(value: float, digits: int = 3) -> str:
    """A difference, with a minus sign as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def signed_estimate(one: Estimate) -> str:
    """A difference with its standard error."""
    return f"{signed(one.value)} ± {one.se:.3f}"


def format_duration(seconds: float) -> str:
    """`48 s`, `12 min`, `3 h 05`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d}"


def format_time(seconds: float) -> str:
    """A moment since the epoch as `2026-01-31 04:05:06`, in this machine's time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def format_clock(seconds: float) -> str:
    """`0:48`, `12:30`, `3:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_size(count: int) -> str:
    """Bytes with a unit: `640 B`, `7.2 MB`."""
    value, units = float(count), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 999.5 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"


def encode_pretty(record: object) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(record))
