"""The declared grid: rows of an experiment, each a settings tree laid over the defaults."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.experiment.settings import CellSettings, Tree, digest, merge, settle
from engine.errors import ConfigError
from engine.records import Record

SHIPPED = Path(__file__).with_name("grid.toml")
VALIDATION, EVALUATION = "validation", "evaluation"
"""Splits: settings are chosen on the one, and each row is looked at once on the other."""


class Row(Record, forbid_unknown_fields=True):
    """One row: a variant of the recipe, run once for every seed."""

    name: str
    """Lower-case letters, digits, dots and dashes: it names a folder."""
    title: str
    rounds: int = 1
    """0 is the base model, which is measured alone."""
    settings: Tree = msgspec.field(default_factory=dict)
    """Laid over the defaults."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training; curation keeps the run's."""
    default: bool = False
    """Whether this row is the recipe of the defaults, which the summary tells of."""
    shares: str = ""
    """Name of a row whose curation of round 1 this row must share; what is alike is found without it."""
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


class Grid(Record, forbid_unknown_fields=True):
    """All rows.

    Raises:
        ConfigError: rows do not fit together, or the settings of one are wrong.
    """

    row: tuple[Row, ...]
    defaults: Tree = msgspec.field(default_factory=dict)
    """Settings of `hermes run`, as its --config takes them."""
    final: Tree = msgspec.field(default_factory=dict)
    """Laid over the `eval` table for the measurement on the evaluation split."""

    def __post_init__(self) -> None:
        names = [row.name for row in self.row]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"grid: two rows are called {sorted(twice)[0]!r}")
        if (count := sum(row.default for row in self.row)) != 1:
            raise ConfigError(f"grid: {count} rows have default = true; it must be one")
        for row in self.row:
            settings = self.settled(row)
            if settings.eval.split == EVALUATION:
                raise ConfigError(
                    f"row {row.name}: eval.split is {EVALUATION}; rows are chosen on another split, "
                    "and --final measures on that one"
                )
            if settings.eval != self.settled(self.default).eval:
                raise ConfigError(f"row {row.name}: eval is a matter of the defaults, the same for all rows")
            self.final_eval(row)
            if row.shares:
                self._check_shares(row, settings)

    def _check_shares(self, row: Row, settings: CellSettings) -> None:
        other = self.find(row.shares)
        theirs = self.settled(other)
        if settings.curation_basis != theirs.curation_basis:
            raise ConfigError(
                f"row {row.name}: shares the curation of {other.name}, but their settings of it differ"
            )

    @property
    def default(self) -> Row:
        """The recipe of the defaults."""
        return next(row for row in self.row if row.default)

    def find(self, name: str) -> Row:
        """The row of that name.

        Raises:
            ConfigError: there is none; names those that there are.
        """
        for row in self.row:
            if row.name == name:
                return row
        raise ConfigError(f"there is no row {name!r}, only {', '.join(row.name for row in self.row)}")

    def tree(self, row: Row) -> Tree:
        """The row's settings laid over the defaults, measured on validation unless they say otherwise."""
        return merge(merge({"eval": {"split": VALIDATION}}, self.defaults), row.settings)

    def settled(self, row: Row) -> CellSettings:
        """They, with everything that they leave open."""
        return settle(self.tree(row), f"row {row.name}")

    def final_eval(self, row: Row) -> CellSettings:
        """They, measured on the evaluation split."""
        over = {"eval": merge(self.final, {"split": EVALUATION})}
        return settle(merge(self.tree(row), over), f"row {row.name}, final")

    def measured(self, row: Row, final: bool) -> CellSettings:
        """The settings whose `eval` is that of the measurement that is wanted."""
        return self.final_eval(row) if final else self.settled(row)

    @property
    def digest(self) -> str:
        """Of all rows with their settings."""
        return digest(
            [
                {
                    "name": row.name,
                    "rounds": row.rounds,
                    "seeds": row.seeds,
                    "settings": msgspec.to_builtins(self.settled(row)),
                    "final": msgspec.to_builtins(self.final_eval(row).eval),
                }
                for row in self.row
            ]
        )


def load_grid(path: Path) -> Grid:
    """A grid's file.

    Raises:
        ConfigError: it is missing, no TOML, or no grid; one line says where and what.
    """
    try:
        tree = tomllib.loads(path.read_text())
        return msgspec.convert(tree, Grid)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--grid {path}: {error}") from error
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"--grid {path}: {error}") from error


def chosen_rows(grid: Grid, names: str) -> tuple[Row, ...]:
    """The rows of a list such as `base,sum` in the grid's order; all of an empty one.

    Raises:
        ConfigError: there is no such row.
    """
    wanted = {grid.find(name.strip()).name for name in names.split(",") if name.strip()}
    return tuple(row for row in grid.row if row.name in wanted or not wanted)


def chosen_seeds(row: Row, seeds: Sequence[int]) -> tuple[int, ...]:
    """Those of a row's seeds that are asked for; all where none are."""
    return tuple(seed for seed in row.seeds if seed in seeds or not seeds) if row.rounds else ()
