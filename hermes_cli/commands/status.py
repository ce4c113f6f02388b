"""`hermes status`: where a run stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hermes_cli.options import Place, PlaceOption, named_run
from hermes_cli.view import format_clock, format_size, format_time

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from hermes_cli.run.event_log import Event, RunRequest
    from hermes_cli.run.status import RoundStatus, RunStatus, StageStatus

_STYLES = {"done": "green", "running": "bold cyan", "stopped": "yellow", "waiting": "dim", "skipped": "dim"}


def show_status(
    run: Place = None,
    run_option: PlaceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say which stages are done, at work, stopped or waiting, how far they are, and what they took."""
    import msgspec

    from hermes_cli.run.folder import open_run
    from hermes_cli.run.status import read_status
    from hermes_cli.settings import stored_settings

    folder = open_run(named_run(run, run_option), whole=True)
    found = read_status(folder, stored_settings(folder.settings))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    from hermes_cli.view import console

    console.print(status_view(found))


def status_view(found: RunStatus) -> RenderableType:
    """A table with a line for each stage."""
    from rich.console import Group
    from rich.text import Text

    from hermes_cli.view import printable

    lines = [f"{format_size(found.bytes)} on disk"]
    if found.request is not None:
        lines.append(_goal(found.request, found.ended, found.eta_seconds))
    if found.last is not None:
        lines.append(f"last: {describe(found.last)}")
    if found.note:
        lines.append(found.note)
    about = Text(printable(found.run), "bold")
    return Group(about, _table(found.rounds), *(Text(printable(line), "dim") for line in lines))


def _goal(request: RunRequest, ended: str, left: float | None) -> str:
    if ended:
        return f"asked for {request.words}: {ended}"
    if left is None:
        return f"asked for {request.words}; how long that takes is unknown until a round has run"
    most = " at most" if request.until or request.patience else ""
    return f"asked for {request.words}: ~{format_clock(left)} left{most}"


def describe(one: Event) -> str:
    """A line of the run's log, in this machine's time."""
    place = "" if one.stage == "run" else "base " if one.round == 0 else f"round {one.round} "
    said = f"{format_time(one.time)} {place}{one.stage} {one.event}"
    said += f", weights {one.weights}" if one.weights else ""
    said += f", engine version {one.engine}" if one.engine is not None else ""
    return f"{said}: {one.reason}" if one.reason else said


def _table(rounds: tuple[RoundStatus, ...]) -> Table:
    from rich.text import Text

    from hermes_cli.view import plain_table

    columns = ("round", "stage", "state", "done", "", "time", "left", "disk")
    table = plain_table(*columns, left=("stage", "state", ""))
    for one in rounds:
        for place, stage in enumerate(one.stages):
            first = place == 0
            table.add_row(
                ("base" if one.round == 0 else str(one.round)) if first else "",
                stage.stage,
                Text(stage.state, _STYLES[stage.state]),
                _progress(stage),
                Text(f"{stage.unit} {stage.note and f'({stage.note})'}".strip(), "dim"),
                format_clock(stage.seconds) if stage.seconds else "-",
                "" if stage.eta_seconds is None else f"~{format_clock(stage.eta_seconds)}",
                format_size(one.bytes) if first and one.round else "",
            )
    return table


def _progress(stage: StageStatus) -> str:
    if not stage.done and stage.total is None:
        return "-"
    return str(stage.done) if stage.total is None else f"{stage.done}/{stage.total}"
