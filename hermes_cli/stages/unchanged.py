"""What a run has made stays what its settings say: a command that asks for other settings is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec

from curate.store.files import ORIGIN
from engine.errors import StaleError
from hermes_cli.run.folder import RunFolder, asked
from hermes_cli.settings import RunSettings, stored_settings
from hermes_cli.stages.curate import require_same_curation, training_source


def require_same_data(folder: RunFolder, settings: RunSettings, besides: int = 0) -> None:
    """Raises StaleError where the run was measured on another data set, or a round other than `besides` was
    curated on one."""
    was = stored_settings(folder.settings).data
    made = [folder.evaluation(one) for one in folder.begun()]
    made += [folder.curation(one) / ORIGIN for one in folder.begun() if one != besides]
    # A data set that was moved is told by its digest, where a round is compared with what it was made of.
    moved = was != settings.data and (was == "shapes" or Path(was).exists())
    if folder.settings.is_file() and moved and any(path.is_file() for path in made):
        raise StaleError(
            f"{folder.root}: its data is {was}, and --data {settings.data} is other; use another --run"
        )


def keep_measuring(folder: RunFolder, settings: RunSettings) -> None:
    """Keeps what an evaluation goes by, for the next one and for `hermes status`, and nothing else."""
    measuring = {name: getattr(settings, name) for name in ("model", "data", "images")}
    measuring["eval"] = msgspec.to_builtins(settings.eval)
    folder.keep(asked(folder.root, measuring)[1])


def require_unchanged(folder: RunFolder, settings: RunSettings) -> None:
    """Compares what `hermes run` asks for with all rounds that are begun, as their own commands do.

    What the run's settings already say is not compared: rounds may have been made otherwise by commands of
    their own, and the report names that.

    Raises:
        StaleError: a round was curated or trained otherwise; names what differs.
    """
    if folder.settings.is_file() and stored_settings(folder.settings) == settings:
        return
    from curate.scoring.scorers import open_scorers

    for number in folder.begun()[1:]:
        if (folder.curation(number) / ORIGIN).is_file():
            source = training_source(settings, number)
            require_same_curation(folder, settings, number, source, open_scorers(settings.curate))
        if folder.training_begun(number) and folder.pairs(number).is_file():
            from hermes_cli.stages.train import require_same_training

            require_same_training(folder, settings, number)
