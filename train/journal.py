"""What a training run leaves on disk beside its checkpoint: basis, metrics, and the latest state.

<out>.training/basis.json       what the run was started with
<out>.training/metrics.jsonl    one `TrainStep` a line
<out>.training/state-000050/    everything needed to go on after step 50; gone when the run is complete
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

import msgspec

from engine.errors import DataError, StaleError
from engine.records import Record
from engine.weights import WEIGHTS
from train.config import TrainConfig
from train.metrics import TrainStep
from train.reference import ReferenceBasis

METRICS = "metrics.jsonl"


class RunBasis(Record):
    """What decides a run's final weights."""

    config: TrainConfig
    reference: ReferenceBasis


class Stateful(Protocol):
    """What the journal needs of a policy."""

    rank: int

    def save(self, folder: Path) -> None:
        """Writes `folder`, complete or not at all."""
        ...

    def load(self, folder: Path) -> None:
        """Takes it up again."""
        ...


class Journal:
    """The `<out>.training` folder of one run."""

    def __init__(self, out: Path, basis: RunBasis) -> None:
        self.folder = out.with_name(out.name + ".training")
        self.metrics = self.folder / METRICS
        self._basis = basis
        self._out = out

    def is_complete(self) -> bool:
        """Whether this very run has already published its checkpoint.

        Raises:
            StaleError: the output folder holds a checkpoint, or `<out>.training` a state, of another run.
        """
        published = (self._out / WEIGHTS).is_file()
        path = self.folder / "basis.json"
        if path.is_file():
            self._compare(path)
        elif published:
            raise StaleError(
                f"{self._out}: holds a checkpoint that `hermes train` did not write here; "
                "choose another output folder or remove it"
            )
        return published

    def resume(self, policy: Stateful) -> int:
        """Restores the latest state and returns the number of steps that are done.

        Metrics lines after that state are cut off: their steps will be run, and written, again.
        """
        states = sorted(self.folder.glob("state-*[0-9]"))
        done = int(states[-1].name.removeprefix("state-")) if states else 0
        if states:
            policy.load(states[-1])
        if policy.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            _replace(self.folder / "basis.json", msgspec.json.encode(self._basis))
            lines = self.metrics.read_bytes().splitlines(keepends=True) if self.metrics.is_file() else []
            _replace(self.metrics, b"".join(lines[:done]))
        return done

    def append(self, step: TrainStep) -> None:
        """Adds a line to the metrics."""
        with self.metrics.open("ab") as lines:
            lines.write(msgspec.json.encode(step) + b"\n")

    def save(self, policy: Stateful, done: int) -> None:
        """Keeps the state after `done` steps and forgets the earlier ones. All ranks call it."""
        folder = self.folder / f"state-{done:06d}"
        policy.save(folder)
        if policy.rank == 0:
            for old in self.folder.glob("state-*"):
                if old != folder:
                    shutil.rmtree(old)

    def close(self) -> None:
        """Forgets the state of a run that has published its checkpoint."""
        for old in self.folder.glob("state-*"):
            # All ranks come here, and each may find a file that another has just removed.
            shutil.rmtree(old, ignore_errors=True)

    def _compare(self, path: Path) -> None:
        try:
            found = msgspec.json.decode(path.read_bytes(), type=RunBasis)
        except msgspec.MsgspecError as error:
            raise DataError(
                f"{path}: not the basis of a training run: {error}; remove {self.folder}"
            ) from error
        before, now = _flat(found), _flat(self._basis)
        moved = [f"{name} {before[name]!r}, now {now[name]!r}" for name in now if before[name] != now[name]]
        if moved:
            raise StaleError(
                f"{self.folder}: was started with {'; '.join(moved)}; remove {self.folder} and {self._out}, "
                "or train into another folder"
            )


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content)
    beside.replace(path)


def _flat(basis: RunBasis) -> dict[str, object]:
    return {**msgspec.to_builtins(basis.config), **msgspec.to_builtins(basis.reference)}


def read_metrics(path: Path) -> list[TrainStep]:
    """The steps of a metrics file.

    Raises:
        DataError: the file is missing or a line is no step; names file and line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; `hermes train` writes it")
    steps = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            steps.append(msgspec.json.decode(line, type=TrainStep))
        except msgspec.MsgspecError as error:
            raise DataError(f"{path}, line {number}: not a training step: {error}") from error
    return steps
