"""What cells have in common is made once and put into each: verified, never assumed.

Files are hard links where the file system has them. All of Hermes writes beside and renames, so a link that
is written again in one folder leaves the others as they are; what is appended to is copied, and locks are
left out.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from benchmarks.experiment.settings import CellSettings
from curate.config import renamed
from curate.evaluation.config import EvalConfig
from curate.evaluation.records import GapReport
from curate.store.files import ORIGIN, PAIRS, SUMMARY
from curate.store.origin import Origin
from curate.store.shards import LOCK, OPEN
from curate.store.summary import CurateSummary
from engine.checkpoints.weights import fingerprint
from engine.errors import DataError, StaleError
from engine.files.atomic import NEW, remove_folder
from engine.files.layout import resolve_model

EVALUATION, REFERENCE = "eval.json", "reference.zarr"
EVENTS, SECONDS = "events.jsonl", "seconds.json"
"""Where a run, and a round of an earlier version, say what stages took."""


def round_folder(run: Path, number: int) -> Path:
    """The folder of a round, as `hermes` names it; round 0 is the base."""
    return run / f"round-{number}"


def put(source: Path, target: Path) -> None:
    """A folder's files in another place, as hard links or copies: all of them or none. It replaces what is
    there."""
    beside = target.with_name(target.name + NEW)
    shutil.rmtree(beside, ignore_errors=True)
    beside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, beside, copy_function=_link, ignore=shutil.ignore_patterns(LOCK))
    remove_folder(target)
    beside.rename(target)


def _link(source: str, target: str) -> None:
    if not source.endswith(OPEN):
        try:
            os.link(source, target)
        except OSError:
            pass
        else:
            return
    shutil.copy2(source, target)


def measurement(run: Path, number: int) -> GapReport | None:
    """A round's measurement; None where there is none.

    Raises:
        DataError: it cannot be read.
    """
    path = round_folder(run, number) / EVALUATION
    try:
        return msgspec.json.decode(path.read_bytes(), type=GapReport)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: not a measurement: {error}; remove it, and it is measured again") from error


def measured_as(run: Path, number: int, config: EvalConfig) -> bool:
    """Whether a round has been measured under these settings, item by item."""
    found = measurement(run, number)
    return found is not None and found.config == config and bool(found.per_item)


def curated(run: Path) -> bool:
    """Whether round 1 is curated to its end."""
    folder = round_folder(run, 1) / "curate"
    return (folder / PAIRS).is_file() and (folder / SUMMARY).is_file()


def share_base(source: Path, run: Path, config: EvalConfig) -> None:
    """Gives a run the base's measurement, unless it has one under these settings."""
    if not measured_as(run, 0, config):
        put(round_folder(source, 0), round_folder(run, 0))


def share_curation(source: Path, run: Path, settings: CellSettings) -> None:
    """Gives a run the curation of round 1, or checks that the one it has is this one.

    Raises:
        StaleError: the shared curation, or the run's own, was made under other settings.
    """
    check_curation(source, settings)
    theirs, ours = (round_folder(one, 1) / "curate" for one in (source, run))
    if not ours.is_dir():
        put(theirs, ours)
        if (source / EVENTS).is_file():
            lines = (source / EVENTS).read_bytes().splitlines(keepends=True)
            with (run / EVENTS).open("ab") as events:
                events.writelines(one for one in lines if one.startswith(b'{"round":1,"stage":"curate"'))
    for name in (ORIGIN, PAIRS):
        if (theirs / name).read_bytes() != (ours / name).read_bytes():
            raise StaleError(
                f"{ours / name}: differs from {theirs / name}, which decides this cell; remove {run}"
            )


def check_curation(run: Path, settings: CellSettings) -> None:
    """Checks that settings, weights and size of a run's curation of round 1 are those that are wanted.

    Raises:
        StaleError: they are not; names what differs.
        DataError: a file of it cannot be read.
    """
    folder = round_folder(run, 1) / "curate"
    stored, wanted = stored_settings(run).curation_basis, settings.curation_basis
    try:
        origin = msgspec.json.decode((folder / ORIGIN).read_bytes(), type=Origin)
        summary = msgspec.json.decode((folder / SUMMARY).read_bytes(), type=CurateSummary)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{folder}: not a finished curation: {error}; remove {run}") from error
    config = settings.curate
    pairs = [
        *((name, stored[name], wanted[name]) for name in wanted),
        ("weights", origin.model, fingerprint(resolve_model(settings.model))),
        ("round", origin.round, 1),
        ("origin's seed", origin.seed, settings.seed),
        ("origin's n", origin.n, config.n),
        ("origin's image", origin.image, msgspec.to_builtins(config.image)),
        ("origin's answer", origin.answer, msgspec.to_builtins(config.answer)),
    ]
    if config.limit and settings.data == "shapes":
        # The embedded world has as many rows as are asked for.
        pairs.append(("rows", summary.items + summary.bad, config.limit))
    moved = [name for name, found, needed in pairs if found != needed]
    if moved:
        raise StaleError(f"{folder}: was curated under other settings ({', '.join(moved)}); remove {run}")


def stored_settings(run: Path) -> CellSettings:
    """What a run's commands were last told, as far as a cell's settings go.

    Raises:
        DataError: they cannot be read.
    """
    path = run / "run.json"
    try:
        tree = renamed(msgspec.json.decode(path.read_bytes(), type=dict))
        known = {name: tree[name] for name in CellSettings.__struct_fields__ if name in tree}
        return msgspec.convert(known, CellSettings)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: not the settings of a run: {error}") from error


def share_reference(source: Path, run: Path) -> None:
    """Gives a run another's reference log-probs of round 1; training itself refuses those that do not fit."""
    theirs, ours = (round_folder(one, 1) / REFERENCE for one in (source, run))
    if theirs.is_dir() and not ours.is_dir():
        put(theirs, ours)
