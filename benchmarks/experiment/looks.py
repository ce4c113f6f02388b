"""The record of every look at the evaluation split: one a row, unless asked for.

Another `eval.seed` draws other items of the split, which earlier looks have not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.experiment.grid import Grid, Row
from benchmarks.experiment.settings import digest
from engine.errors import DataError, StaleError
from engine.files.atomic import write_file
from engine.records import Record


class Look(Record):
    """One row's measurement on the evaluation split."""

    row: str
    date: str
    """ISO, when it began."""
    settings: str
    """Digest of what decides the row's weights, of its rounds, and of the measurement."""
    items: int
    """The seed that draws the items looked at."""


class Looks:
    """The ledger in a file, beside the results and kept with them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looks = _read(path)

    def of(self, grid: Grid, row: Row) -> tuple[Look, ...]:
        """Those at a row on the items that it is measured on, the first first."""
        items = grid.final_eval(row).eval.seed
        return tuple(one for one in self._looks if (one.row, one.items) == (row.name, items))

    def require(self, grid: Grid, rows: Sequence[Row], again: bool) -> None:
        """Refuses a second look at a row on the same items under other settings, unless it is asked for.

        Raises:
            StaleError: names the row and the date of the first look.
        """
        for row in rows:
            earlier = self.of(grid, row)
            key = settings_key(grid, row)
            if earlier and not again and all(one.settings != key for one in earlier):
                raise StaleError(
                    f"row {row.name} was looked at on the evaluation split on {earlier[-1].date}, under "
                    "other settings; choose settings on validation, or ask for it with --look-again, "
                    "which is counted"
                )

    def enter(self, grid: Grid, row: Row, date: str) -> None:
        """Enters a look, before it is taken; the same settings again are the same look."""
        key = settings_key(grid, row)
        if any(one.settings == key for one in self.of(grid, row)):
            return
        items = grid.final_eval(row).eval.seed
        self._looks.append(Look(row=row.name, date=date, settings=key, items=items))
        write_file(self._path, msgspec.json.format(msgspec.json.encode(self._looks)))


def _read(path: Path) -> list[Look]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Look])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: not a list of looks: {error}; restore it") from error


def settings_key(grid: Grid, row: Row) -> str:
    """Digest of all that a look at a row depends on, but for the seeds of training."""
    final = grid.final_eval(row)
    weights = final.training_basis if row.rounds else {}
    return digest({"weights": weights, "rounds": row.rounds, "measured": final.base_basis})
