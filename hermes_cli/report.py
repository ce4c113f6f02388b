"""`hermes report`: a run's report, as a page and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def make_report(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")] = Path("runs/default"),
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE.html", help="The page [report.html in the run].")
    ] = None,
) -> None:
    """Write what the rounds gave: a page for people, report.json for programs. Starts no engine."""
    from hermes_cli.inspection.round import open_run
    from hermes_cli.stages import finish

    finish(open_run(run, whole=True), to)
