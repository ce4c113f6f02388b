"""The declared grid: rows of an experiment, each a tree of `hermes run`'s settings over common defaults."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import ConfigError
from engine.records import Record
from hermes_cli.settings import RunSettings, Tree, merge, settle

SHIPPED = Path(__file__).with_name("grid.toml")


class Row(Record, forbid_unknown_fields=True):
    """A variant of the recipe, run once for every seed."""

    name: str
    """Lower-case letters, digits, dots and dashes: it names a folder."""
    title: str
    rounds: int = 1
    """0 is the base model, which is measured alone."""
    settings: Tree = {}
    """Laid over the defaults."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training; curation keeps the run's."""
    default: bool = False
    """Whether this row is the one that is recommended."""
    group: str = ""
    """Rows of one group stand in one table."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.name):
            raise ConfigError(f"row {self.name!r}: a name has lower-case letters, digits, dots and dashes")
        if self.rounds < 0:
            raise ConfigError(f"row {self.name}: rounds is {self.rounds}, it cannot be negative")
        if self.rounds and not self.seeds:
            raise ConfigError(f"row {self.name}: it has no seeds")
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"row {self.name}: seeds {list(self.seeds)} has one twice")
        if "seed" in self.settings.get("train", {}):
            raise ConfigError(f"row {self.name}: train.seed is given by seeds, not by settings")

    @property
    def runs(self) -> tuple[int, ...]:
        """Seeds of its runs; the base model, which is not trained, has one."""
        return self.seeds if self.rounds else (0,)


class Grid(Record, forbid_unknown_fields=True):
    """All rows, with the settings that they have in common.

    Raises:
        ConfigError: rows do not fit together, or the settings of one are wrong.
    """

    row: tuple[Row, ...]
    defaults: Tree = {}
    """Settings of `hermes run`, as its --config takes them."""

    def __post_init__(self) -> None:
        names = [row.name for row in self.row]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"grid: two rows are called {sorted(twice)[0]!r}")
        if (count := sum(row.default for row in self.row)) != 1:
            raise ConfigError(f"grid: {count} rows have default = true; it must be one")
        for row in self.row:
            if self.settled(row).eval != self.settled(self.default).eval:
                raise ConfigError(f"row {row.name}: eval is a matter of the defaults, the same for all rows")

    @property
    def default(self) -> Row:
        """The recommended row."""
        return next(row for row in self.row if row.default)

    def tree(self, row: Row) -> Tree:
        """The row's settings laid over the defaults."""
        return merge(self.defaults, row.settings)

    def settled(self, row: Row) -> RunSettings:
        """Its settings, with everything that the tree leaves open.

        Raises:
            ConfigError: a name is unknown, or a value is of the wrong type or out of range.
        """
        try:
            return settle(self.tree(row))
        except ConfigError as error:
            raise ConfigError(f"row {row.name}: {error}") from error

    def config(self, row: Row, seed: int) -> bytes:
        """A file for `hermes run --config` that states every setting, so that no recipe lies under it."""
        whole = merge(msgspec.to_builtins(self.settled(row)), {"train": {"seed": seed}})
        lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in _flat(whole))
        return "".join(lines).encode()

    def chosen(self, names: str) -> tuple[Row, ...]:
        """The rows of a list such as `base,sum` in the grid's order; all of an empty one.

        Raises:
            ConfigError: there is no such row; names those that there are.
        """
        wanted = {name.strip() for name in names.split(",") if name.strip()}
        known = [row.name for row in self.row]
        if unknown := sorted(wanted - {*known}):
            raise ConfigError(f"there is no row {unknown[0]!r}, only {', '.join(known)}")
        return tuple(row for row in self.row if row.name in wanted or not wanted)


def _flat(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting; what is unset has no place in TOML."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value


def load_grid(path: Path) -> Grid:
    """A grid's file.

    Raises:
        ConfigError: it is missing, no TOML, or no grid; one line says where and what.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Grid)
    except (OSError, ValueError, ConfigError) as error:
        raise ConfigError(f"--grid {path}: {error}") from error
