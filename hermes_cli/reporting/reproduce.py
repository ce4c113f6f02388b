"""The commands that lead to the same run, and where a run's rounds were not made by its present settings."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import msgspec

from curate.config import caption_plan, pairing
from curate.store.origin import Origin
from engine.errors import UNREADABLE, DataError
from engine.files.seals import require_sealed
from engine.records import Record
from hermes_cli.recipes import DEFAULT
from hermes_cli.settings import RunSettings, Tree, merge, parse_assignment, settle

AGAIN = "runs/again"
"""Folder that the commands name: the run's own would be found complete."""


def flat_settings(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of every setting."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, dict) and value
        found |= flat_settings(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


def changed_settings(settings: Tree) -> dict[str, Any]:
    """Dotted name -> value of the settings that a new run does not begin with."""
    # All as JSON gives them: a tuple does not equal its list. What is not stored is as the records have it.
    begun, plain, stored = (
        msgspec.json.decode(msgspec.json.encode(one)) for one in (settle(DEFAULT), RunSettings(), settings)
    )
    defaults, values = flat_settings(begun), flat_settings(merge(plain, stored))
    return {name: value for name, value in values.items() if name not in defaults or defaults[name] != value}


def assignment(name: str, value: Any) -> str:
    """`--set` with a setting, quoted for a shell; it is read back as this very value."""
    for text in (value if isinstance(value, str) else json.dumps(value), json.dumps(value)):
        if flat_settings(parse_assignment(f"{name}={text}")) == {name: value}:
            break
    return f"--set {shlex.quote(f'{name}={text}')}"


def run_command(settings: Tree, rounds: int) -> str:
    """`hermes run` in a new folder, with every setting that it would not begin with."""
    given = (assignment(name, value) for name, value in changed_settings(settings).items())
    return " ".join([f"hermes run --rounds {rounds} --run {AGAIN}", *given])


class TrainingBasis(Record):
    """What of a training's `basis.json` the report tells."""

    config: dict[str, Any]
    reference: dict[str, Any] = {}
    start: str = ""

    @property
    def weights(self) -> tuple[str, str]:
        """Fingerprints of the weights that it started from, and of its reference's."""
        reference = str(self.reference.get("weights", ""))
        return self.start or reference, reference


def read_basis(path: Path) -> TrainingBasis | None:
    """A training's basis; None where there is none.

    Raises:
        DataError: it is not as it was sealed, or cannot be read.
    """
    require_sealed(path, "train this round again with `hermes train --fresh`")
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingBasis) if path.is_file() else None
    except UNREADABLE as error:
        raise DataError(f"{path}: not the basis of a training: {error}") from error


def curated_otherwise(origin: Origin, paired_by: Tree, settings: RunSettings) -> list[str]:
    """How a round's curation differs from the run's present settings, as `name was value`.

    `paired_by` is what its summary keeps of the rules that made pairs; empty where it keeps nothing.
    """
    config = settings.curate
    was: Tree = {"n": origin.n, "select": origin.select, "image": origin.image, "answer": origin.answer}
    now: Tree = {name: msgspec.to_builtins(getattr(config, name)) for name in was} | pairing(config)
    if isinstance(origin.captions, list) and len(origin.captions) == origin.n:
        was["caption"] = {name: value for name, value in origin.captions[0].items() if name != "sampler"}
        now["caption"] = msgspec.to_builtins(caption_plan(config)[0])
    before = {"seed": origin.seed} | {f"curate.{name}": value for name, value in (was | paired_by).items()}
    then, wanted = flat_settings(before), flat_settings({"seed": settings.seed, "curate": now})
    return [
        f"{name} was {json.dumps(value)}" for name, value in then.items() if wanted.get(name, value) != value
    ]


def trained_otherwise(basis: TrainingBasis, settings: Tree, start: str, wanted: str) -> list[str]:
    """How what trained a round differs from the run's present settings, as `name was value`.

    `start` is the fingerprint of the round's starting weights as they are now, `wanted` that of the weights
    that these settings make its reference; empty where they are not known.
    """
    now = settings.get("train", {})
    moved = [
        f"train.{name} was {json.dumps(value)}"
        for name, value in basis.config.items()
        # Any device is what `auto` names.
        if name in now and now[name] != value and (name, now[name]) != ("device", "auto")
    ]
    began, reference = basis.weights
    if start and began and began != start:
        moved.append(f"it started from the weights {began}, which are now {start}")
    elif wanted and reference and reference != wanted:
        moved.append(f"reference.policy was {'previous' if reference == began else 'base'}")
    return moved
