"""`hermes report`: a run's report, as a page and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hermes_cli.options import Place, PlaceOption, named_run


def make_report(
    run: Place = None,
    run_option: PlaceOption = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE.html", help="The page; without, report.html in the run."),
    ] = None,
) -> None:
    """Write what the rounds gave: a page for people, report.json for programs. Starts no engine."""
    from hermes_cli.run.folder import open_run
    from hermes_cli.stages.evaluate import finish

    finish(open_run(named_run(run, run_option), whole=True), to)
