"""What a training run leaves on disk beside its checkpoint: basis, metrics, and the latest state.

<out>.training/basis.json       what the run was started with
<out>.training/metrics.jsonl    one `TrainStep` a line
<out>.training/state-000050/    everything needed to go on after step 50; gone when the run is complete
<out>.training/best/            checkpoint after the steps of the lowest mean loss, where it is asked for
<out>.training/lock             held by the process that trains

A folder in the making has the suffix .new and one in removal .gone; neither is ever read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import Protocol

import msgspec

from engine.errors import CheckpointError, DataError, StaleError
from engine.files.atomic import remove_folder, sweep, sync, write_file, writing
from engine.files.layout import WEIGHTS
from engine.files.lock import holding
from engine.records import Record
from train.config import MEANS, TrainConfig
from train.logging.metrics import TrainStep
from train.reference.reference import ReferenceBasis

STATES = "state-*[0-9]"
METRICS, BEST, BASIS = "metrics.jsonl", "best", "basis.json"


class RunBasis(Record):
    """What decides a run's final weights."""

    config: TrainConfig
    reference: ReferenceBasis
    start: str = ""
    """Fingerprint of the weights that training starts from; empty where they are the reference's, as they
    always were in early runs."""

    @property
    def started_from(self) -> str:
        """Fingerprint of the weights that training starts from."""
        return self.start or self.reference.weights


class Stateful(Protocol):
    """What the journal needs of a policy. All ranks call each of these."""

    rank: int

    def save(self, folder: Path) -> None:
        """Writes `folder`, complete or not at all."""
        ...

    def load(self, folder: Path) -> None:
        """Takes it up again."""
        ...

    def publish(self, folder: Path, replace: bool = False) -> None:
        """Writes a checkpoint folder, complete or not at all."""
        ...

    def agree(self, yes: bool) -> bool:
        """What rank 0 says, on every rank."""
        ...


class Journal:
    """The `<out>.training` folder of one run."""

    def __init__(self, out: Path, basis: RunBasis) -> None:
        self.folder = folder_of(out)
        self.metrics = self.folder / METRICS
        self._basis = basis
        self._config = basis.config
        self._out = out
        self._losses: list[float] = []
        """Of every step so far; on rank 0 alone."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other runs out of the folder until the context ends; for rank 0, others pass.

        Raises:
            BusyError: another process trains there.
        """
        if os.environ.get("RANK", "0") != "0":
            yield
            return
        busy = f"{self.folder}: another process is training into it; wait for it, or use another --run"
        with holding(self.folder / "lock", busy):
            yield

    def require_same(self) -> None:
        """Raises StaleError where another run has begun here; names what differs."""
        if begun(self._out):
            self._compare(self.folder / BASIS)

    def is_complete(self) -> bool:
        """Whether this very run has already published its checkpoint.

        Raises:
            StaleError: the output folder holds something else, or `<out>.training` a state of another run.
        """
        published = (self._out / WEIGHTS).is_file()
        self.require_same()
        if published and not begun(self._out):
            raise StaleError(
                f"{self._out}: holds a checkpoint that `hermes train` did not write here; "
                "choose another output folder or remove it"
            )
        if not published and self._out.is_dir() and any(self._out.iterdir()):
            raise StaleError(f"{self._out}: holds other files; choose another output folder or remove them")
        return published

    def resume(self, policy: Stateful) -> int:
        """Restores the latest state and returns the number of steps that are done.

        Metrics lines after that state are cut off: their steps will be run, and written, again.

        Raises:
            CheckpointError: the state cannot be read, or the metrics up to it are missing.
        """
        states = self._states()
        done = max(states, default=0)
        if states:
            policy.load(states[done])
        if policy.rank == 0:
            sweep(self.folder, STATES)
            lines = self.metrics.read_bytes().splitlines(keepends=True) if self.metrics.is_file() else []
            if len(lines) < done:
                raise CheckpointError(
                    f"{self.metrics}: holds {len(lines)} steps, the state {done}; restore it, "
                    f"or remove {self.folder} to start anew"
                )
            write_file(self.folder / BASIS, msgspec.json.encode(self._basis))
            write_file(self.metrics, b"".join(lines[:done]))
            self._losses = [step.loss for step in read_metrics(self.metrics)]
        return done

    def append(self, step: TrainStep) -> None:
        """Adds a line to the metrics."""
        with writing(self.metrics), self.metrics.open("ab") as lines:
            lines.write(msgspec.json.encode(step) + b"\n")
        self._losses.append(step.loss)

    def save(self, policy: Stateful, done: int) -> None:
        """Keeps the state after `done` steps and forgets all but the latest few. All ranks call it."""
        if policy.rank == 0:
            # A state that outlives a power loss must find its steps in the metrics.
            sync(self.metrics)
        policy.save(self.folder / f"state-{done:06d}")
        if policy.rank == 0:
            states = self._states()
            for old in sorted(states)[: -self._config.keep]:
                remove_folder(states[old])

    def keep_best(self, policy: Stateful) -> None:
        """Exports the weights where the latest steps' mean loss is the lowest so far, if the run wants it.

        Means are over `save_every` steps and the metrics are all that decides, so that a resumed run comes
        to the same result. All ranks call it.
        """
        if self._config.keep_best and policy.agree(latest_is_best(self._losses, self._config.save_every)):
            policy.publish(self.folder / BEST, replace=True)

    def publish(self, policy: Stateful) -> None:
        """Writes the finished checkpoint. All ranks call it."""
        if policy.rank == 0:
            sync(self.metrics)
        policy.publish(self._out)

    def close(self) -> None:
        """Forgets the states of a run that has published its checkpoint."""
        clear_states(self._out)

    def _states(self) -> dict[int, Path]:
        """Number of steps -> folder of every complete state."""
        found = self.folder.glob(STATES)
        return {int(path.name.removeprefix("state-")): path for path in found}

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


def folder_of(out: Path) -> Path:
    """Where the training into `out` has its journal."""
    return out.with_name(out.name + ".training")


def clear_states(out: Path) -> None:
    """Removes the resumable states of a training that has published `out`."""
    folder = folder_of(out)
    for state in folder.glob(STATES):
        # All ranks come here, and each may find a folder that another has just removed.
        with suppress(FileNotFoundError):
            remove_folder(state)
    sweep(folder, STATES)


def begun(out: Path) -> bool:
    """Whether a training into `out` has begun."""
    return (folder_of(out) / BASIS).is_file()


def _flat(basis: RunBasis) -> dict[str, object]:
    """What two runs must share to be one."""
    config = {name: value for name, value in msgspec.to_builtins(basis.config).items() if name not in MEANS}
    reference = msgspec.to_builtins(basis.reference)
    weights = {"starting weights": basis.started_from, "reference weights": reference.pop("weights")}
    return {**config, **weights, **reference}


def latest_is_best(losses: Sequence[float], every: int) -> bool:
    """Whether the mean of the last `every` losses is below that of every earlier stretch of as many.

    Stretches end where states are saved: at multiples of `every`.
    """
    if not losses:
        return False
    latest = fmean(losses[-every:])
    ends = range(every, len(losses), every)
    return all(latest < fmean(losses[end - every : end]) for end in ends)


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
