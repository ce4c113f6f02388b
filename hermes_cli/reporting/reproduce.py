"""The commands that lead to the same run, and where a run's rounds were not made by its present settings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from hermes_cli.settings import RunSettings, Tree, parse_assignment

AGAIN = "runs/again"
"""Folder that the commands name: the run's own would be found complete."""


def flat(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def changed(settings: Tree) -> dict[str, Any]:
    """Dotted name -> value of the settings that are not the defaults."""
    defaults = dict(flat(msgspec.to_builtins(RunSettings())))
    return {name: value for name, value in flat(settings) if name not in defaults or defaults[name] != value}


def assignment(name: str, value: Any) -> str:
    """`--set` with a setting, quoted for a shell; it is read back as this very value."""
    for text in (value if isinstance(value, str) else json.dumps(value), json.dumps(value)):
        if dict(flat(parse_assignment(f"{name}={text}"))) == {name: value}:
            break
    return f"--set {shlex.quote(f'{name}={text}')}"


def run_command(settings: Tree, rounds: int) -> str:
    """`hermes run` in a new folder, with every setting that is not the default."""
    words = [f"hermes run --rounds {rounds} --run {AGAIN}"]
    return " ".join([*words, *(assignment(name, value) for name, value in changed(settings).items())])


def trained_otherwise(basis: Path, settings: Tree) -> list[str]:
    """How the settings that trained a round differ from the run's present ones, as `name was value`."""
    try:
        config = msgspec.json.decode(basis.read_bytes(), type=dict).get("config", {})
    except (OSError, msgspec.MsgspecError, AttributeError):
        return []
    now = settings.get("train", {})
    return [
        f"train.{name} was {json.dumps(value)}"
        for name, value in config.items()
        if name in now and now[name] != value
    ]
