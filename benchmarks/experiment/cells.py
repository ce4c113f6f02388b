"""The work of an experiment as tasks: each a `hermes` command in a folder of its own, done once.

<to>/shared/base-D/          the base model's measurement, for all cells that measure alike
<to>/shared/curation-D/      round 1 curated, for all cells that curate alike
<to>/cells/NAME-D/seed-K/    a cell: `hermes run`, from copies of both
<to>/final/NAME-D/seed-K/    the evaluation split on a cell's weights: `hermes eval`

D is a digest of the settings that decide what lies there. So other settings never meet old files, and rows
that differ in the number of rounds alone are one cell.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.experiment.narrowing import narrow_curation
from benchmarks.experiment.settings import CellSettings, as_toml
from benchmarks.experiment.sharing import (
    curated,
    measured_as,
    measurement,
    round_folder,
    share_base,
    share_curation,
    share_reference,
)
from engine.errors import DataError
from engine.files.atomic import write_file
from engine.files.layout import WEIGHTS
from engine.records import Record

CONFIG, LOG = "config.toml", "log.txt"


class Task(Record):
    """One command of `hermes` in a folder."""

    folder: Path
    settings: CellSettings
    rows: tuple[str, ...] = ()
    """The rows whose result it is."""

    @property
    def name(self) -> str:
        """What progress calls it."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def needs(self) -> tuple[Path, ...]:
        """Folders of the tasks that must be done before."""
        return ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of `hermes`."""
        raise NotImplementedError

    @property
    def stages(self) -> tuple[tuple[int, str], ...]:
        """(round, stage) of all that the task itself does."""
        return ()

    def done(self) -> bool:
        """Whether the folder holds all that the task gives."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Writes the file of settings, and puts into the folder what others have made."""
        write_file(self.folder / CONFIG, as_toml(self.settings))

    def _command(self, name: str, *more: str) -> tuple[str, ...]:
        return (name, "--run", str(self.folder), "--config", str(self.folder / CONFIG), *more)


class Base(Task):
    """Measures the base model."""

    @property
    def arguments(self) -> tuple[str, ...]:
        return self._command("eval")

    @property
    def stages(self) -> tuple[tuple[int, str], ...]:
        return ((0, "eval"),)

    def done(self) -> bool:
        return measured_as(self.folder, 0, self.settings.eval)


class Curation(Task):
    """Curates round 1, of the candidates of a wider curation where there is one."""

    wider: Path | None = None
    wide: CellSettings | None = None
    """The settings of that one."""

    @property
    def needs(self) -> tuple[Path, ...]:
        return (self.wider,) if self.wider else ()

    @property
    def arguments(self) -> tuple[str, ...]:
        return self._command("curate")

    @property
    def stages(self) -> tuple[tuple[int, str], ...]:
        return () if self.wider else ((1, "curate"),)

    def done(self) -> bool:
        return curated(self.folder)

    def prepare(self) -> None:
        super().prepare()
        if self.wider is not None and self.wide is not None:
            narrow_curation(self.wider, self.wide, self.folder, self.settings)


class Cell(Task, kw_only=True):
    """A row under one seed of training."""

    seed: int
    rounds: int
    base: Path
    curation: Path
    siblings: tuple[Path, ...] = ()
    """Cells whose reference log-probs of round 1 are decided by the same."""

    @property
    def name(self) -> str:
        return f"{'+'.join(self.rows)}, seed {self.seed}"

    @property
    def needs(self) -> tuple[Path, ...]:
        return (self.base, self.curation)

    @property
    def arguments(self) -> tuple[str, ...]:
        return self._command("run", "--rounds", str(self.rounds))

    @property
    def stages(self) -> tuple[tuple[int, str], ...]:
        names = ("curate", "reference", "train", "eval")
        every = ((number, name) for number in range(1, self.rounds + 1) for name in names)
        return tuple(one for one in every if one != (1, "curate"))

    def done(self) -> bool:
        return all(self.has(number) for number in range(self.rounds + 1))

    def has(self, number: int) -> bool:
        """Whether a round is trained and measured."""
        trained = not number or (self.checkpoint(number) / WEIGHTS).is_file()
        return trained and measured_as(self.folder, number, self.settings.eval)

    def checkpoint(self, number: int) -> Path:
        """Weights after a round."""
        return round_folder(self.folder, number) / "checkpoint"

    def prepare(self) -> None:
        super().prepare()
        share_base(self.base, self.folder, self.settings.eval)
        share_curation(self.curation, self.folder, self.settings)
        for one in self.siblings:
            share_reference(one, self.folder)


class Final(Task, kw_only=True):
    """Measures a cell's rounds on the evaluation split."""

    cell: Cell
    base: Path

    @property
    def name(self) -> str:
        return f"{self.cell.name}, final"

    @property
    def rounds(self) -> int:
        """Of the cell."""
        return self.cell.rounds

    @property
    def needs(self) -> tuple[Path, ...]:
        return (self.base, self.cell.folder)

    @property
    def arguments(self) -> tuple[str, ...]:
        return self._command("eval")

    @property
    def stages(self) -> tuple[tuple[int, str], ...]:
        return tuple((number, "eval") for number in range(1, self.rounds + 1))

    def done(self) -> bool:
        return all(self.has(number) for number in range(self.rounds + 1))

    def has(self, number: int) -> bool:
        """Whether a round of these very weights is measured."""
        found, trained = measurement(self.folder, number), measurement(self.cell.folder, number)
        if found is None or trained is None or found.fingerprint != trained.fingerprint:
            return False
        return found.config == self.settings.eval and bool(found.per_item)

    def prepare(self) -> None:
        super().prepare()
        share_base(self.base, self.folder, self.settings.eval)
        for number in range(1, self.rounds + 1):
            link = round_folder(self.folder, number) / "checkpoint"
            link.parent.mkdir(parents=True, exist_ok=True)
            wanted = os.path.relpath(self.cell.checkpoint(number), link.parent)
            if link.is_symlink() and os.readlink(link) != wanted:
                link.unlink()
            if not link.is_symlink():
                if link.exists():
                    raise DataError(f"{link}: is no link to the cell's weights; remove {self.folder}")
                link.symlink_to(wanted)


Measured = Base | Cell | Final
"""Tasks whose folders hold the measurements of a row."""
