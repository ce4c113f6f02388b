"""The commands that lead to the same run, and where a run's rounds were not made by its present settings."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import UNREADABLE
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
    """A training's basis; None where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingBasis)
    except (OSError, *UNREADABLE):
        return None


def trained_otherwise(basis: TrainingBasis, settings: Tree, wanted: str) -> list[str]:
    """How what trained a round differs from the run's present settings, as `name was value`.

    `wanted` is the fingerprint of the weights that these settings make the round's reference; empty where
    it is not known.
    """
    now = settings.get("train", {})
    moved = [
        f"train.{name} was {json.dumps(value)}"
        for name, value in basis.config.items()
        # Any device is what `auto` names.
        if name in now and now[name] != value and (name, now[name]) != ("device", "auto")
    ]
    start, reference = basis.weights
    if wanted and reference and reference != wanted:
        moved.append(f"reference.policy was {'previous' if reference == start else 'base'}")
    return moved
