"""`hermes import-pairs`: pairs that were curated elsewhere become a round's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from curate.exchange.importing import Imported
    from hermes_cli.run.folder import RunFolder

FORMATS = "official, trl, align-anything, parquet or native"


def import_foreign_pairs(
    source: Annotated[Path, typer.Argument(help="File of pairs, or a folder that holds one.")],
    run: Annotated[Path, typer.Option("--run", help="Folder of the run.")] = Path("runs/default"),
    round_number: Annotated[int, typer.Option("--round", min=1, help="Round, from 1.")] = 1,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Base checkpoint folder; without, the run's, or the embedded model."),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help=f"Format: {FORMATS}; without, told from the fields of each row.")
    ] = "",
    images: Annotated[
        list[Path] | None, typer.Option("--images", help="Folder that image names start from; repeatable.")
    ] = None,
) -> None:
    """Read preference pairs of other tools into a round, for `hermes train`."""
    from hermes_cli.run.folder import RunFolder
    from hermes_cli.settings import load_settings

    settings = load_settings(run / "run.json", {} if model is None else {"model": model})
    folder = RunFolder(run, settings.model)
    folder.require_weights_before(round_number)
    _say(_import(source, folder, round_number, form, images or []), folder.curation(round_number))
    typer.echo(f"train on them with `hermes train --run {run} --round {round_number}`")


def _import(source: Path, folder: RunFolder, number: int, form: str, images: list[Path]) -> Imported:
    from curate.exchange.importing import check_import, import_pairs
    from hermes_cli.view import progress_bar

    check_import(source, folder.curation(number), form)
    from curate.exchange.tokenizers import Tokenizers

    tokenizers = Tokenizers(folder.checkpoint(0))
    with progress_bar(f"import into round {number}", 0) as advance:
        done = 0

        def progress(count: int) -> None:
            nonlocal done
            done += count
            advance(count, total=done)

        return import_pairs(source, folder.curation(number), tokenizers, number, form, images, progress)


def _say(imported: Imported, folder: Path) -> None:
    from curate.store.files import QUARANTINE
    from hermes_cli.view import say

    say(
        f"{imported.rows} rows of {imported.source}: {imported.caption_pairs} caption pairs,"
        f" {imported.image_pairs} image pairs"
    )
    if imported.quarantined or imported.one_sided:
        say(
            f"  {imported.quarantined} rows quarantined, {imported.one_sided} with one side alone:"
            f" {folder / QUARANTINE}"
        )
