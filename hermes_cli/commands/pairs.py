"""`hermes pairs`: the pairs of a round, as they are on stdout, or in another tool's layout in a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hermes_cli.options import Place, PlaceOption, named_run

if TYPE_CHECKING:
    from hermes_cli.run.folder import RunFolder

LAYOUTS = "official, trl, ms-swift, llama-factory, align-anything or parquet"


def show_pairs(
    run: Place = None,
    run_option: PlaceOption = None,
    round_number: Annotated[int, typer.Option("--round", min=1, help="Round, from 1.")] = 1,
    layout: Annotated[str, typer.Option("--format", help=f"Layout: {LAYOUTS}.")] = "",
    to: Annotated[Path | None, typer.Option("--to", help="New folder to write, with --format.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Checkpoint that decodes images; without, the run's.")
    ] = None,
) -> None:
    """Print a round's pairs as JSON lines, or write them with their images as another tool reads them."""
    from engine.errors import ConfigError
    from hermes_cli.run.folder import RunFolder, open_run

    root = named_run(run, run_option)
    folder = open_run(root, whole=True)
    if model is not None:
        folder = RunFolder(root, model)
    folder.require_curated(round_number)
    if layout and to is not None:
        _export(folder, round_number, layout, to)
    elif layout or to is not None:
        raise ConfigError(f"name both, --format ({LAYOUTS}) and the new folder --to; or neither, to print")
    else:
        _print_lines(folder.pairs(round_number))


def _print_lines(path: Path) -> None:
    """The lines of a pair file, once all of them are known to be records."""
    from curate.store.files import read_records
    from engine.records import Preference

    for _ in read_records(path, Preference):
        pass
    with path.open("rb") as lines:
        sys.stdout.buffer.writelines(lines)
    sys.stdout.buffer.flush()


def _export(folder: RunFolder, number: int, layout: str, to: Path) -> None:
    from curate.exchange.export import check_layout, export_pairs
    from curate.store.files import read_records
    from engine.records import Preference
    from hermes_cli.view import progress_bar, say

    check_layout(layout, to)
    folder.require_base()
    from curate.exchange.tokenizers import Tokenizers

    preferences = read_records(folder.pairs(number), Preference)
    tokenizers = Tokenizers(folder.checkpoint(0))
    with progress_bar(f"export round {number}", None) as advance:
        exported = export_pairs(preferences, to, layout, tokenizers, folder.curation(number), advance)
    say(f"{to}: {', '.join(f'{count} {what}' for what, count in exported.counts.items())}")
    for reason, count in exported.left_out.items():
        say(f"  left out: {count} {reason}")
