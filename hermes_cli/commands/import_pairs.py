"""`hermes import-pairs`: pairs that were curated elsewhere become a round's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        str, typer.Option("--format", help=f"Format: {FORMATS}; without, each row's fields say it.")
    ] = "",
    images: Annotated[
        list[Path] | None, typer.Option("--images", help="Folder that image names start from; repeatable.")
    ] = None,
) -> None:
    """Read preference pairs of other tools into a round, for `hermes train`."""
    from curate.exchange.importing import check_import, import_pairs
    from curate.store.files import QUARANTINE
    from hermes_cli.run.folder import asked
    from hermes_cli.view import counted, progress_bar, say

    folder, settings = asked(run, {} if model is None else {"model": model})
    folder.require_weights_before(round_number)
    curation = folder.curation(round_number)
    check_import(source, curation, form)
    from curate.exchange.tokenizers import Tokenizers

    tokenizers = Tokenizers(folder.checkpoint(0))
    with progress_bar(f"import into round {round_number}", None) as advance:
        imported = import_pairs(source, curation, tokenizers, round_number, form, images or (), advance)
    folder.keep(settings)
    say(
        f"{counted(imported.rows, 'row')} of {imported.source}: "
        f"{counted(imported.caption_pairs, 'caption pair')}, {counted(imported.image_pairs, 'image pair')}"
    )
    if imported.quarantined or imported.one_sided:
        say(
            f"  {counted(imported.quarantined, 'row')} quarantined, {imported.one_sided} with one side alone:"
            f" {curation / QUARANTINE}"
        )
    typer.echo(f"train on them with `hermes train --run {run} --round {round_number}`")
