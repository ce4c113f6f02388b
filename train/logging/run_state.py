"""What a training run leaves on disk beside its checkpoint: basis, metrics, and the latest state.

<out>.training/basis.json       what the run was started with
<out>.training/metrics.jsonl    one `TrainStep` a line
<out>.training/state-000050/    everything needed to go on after step 50; gone when the run is complete
<out>.training/lock             held by the process that trains

A folder in the making has the suffix .new and one in removal .gone; neither is ever read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.errors import UNREADABLE, CheckpointError, DataError, StaleError
from engine.files.atomic import remove_folder, sweep, sync, write_file, writing
from engine.files.layout import WEIGHTS
from engine.files.lock import holding
from engine.files.seals import SEAL, require_sealed, seal
from train.config import BASIS, METRICS, RUNTIME_FIELDS
from train.logging.metrics import TrainStep
from train.reference.inputs import RunBasis

if TYPE_CHECKING:
    from train.distributed.policy import Policy

STATES = "state-*[0-9]"


class RunState:
    """The `<out>.training` folder of one run. All ranks make the calls that take the policy."""

    def __init__(self, out: Path, basis: RunBasis) -> None:
        self.folder = folder_of(out)
        self.metrics = self.folder / METRICS
        self._basis = basis
        self._out = out

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
        """Compares the run with the one that was begun here; computes nothing.

        Raises:
            StaleError: it was another; names what differs.
            DataError: what it was cannot be read.
        """
        path = self.folder / BASIS
        if not path.is_file():
            return
        require_sealed(path, f"remove {self.folder} and {self._out} to train anew")
        try:
            found = msgspec.json.decode(path.read_bytes(), type=RunBasis)
        except UNREADABLE as error:
            raise DataError(
                f"{path}: not the basis of a training run: {error}; remove {self.folder}"
            ) from error
        before, now = _flat(found), _flat(self._basis)
        moved = [f"{name} {before[name]!r}, now {now[name]!r}" for name in now if before[name] != now[name]]
        if moved:
            raise StaleError(
                f"{self.folder}: was started with {'; '.join(moved)}; remove {self.folder} and {self._out}, "
                "train into another folder, or begin again with `hermes train --fresh`"
            )

    def is_complete(self) -> bool:
        """Whether this very run has already published its checkpoint.

        Raises:
            StaleError: the output folder holds something else, or `<out>.training` a state of another run.
        """
        published = (self._out / WEIGHTS).is_file()
        self.require_same()
        if published and not (self.folder / BASIS).is_file():
            raise StaleError(
                f"{self._out}: holds a checkpoint that `hermes train` did not write here; "
                "choose another output folder or remove it"
            )
        if not published and self._out.is_dir() and any(self._out.iterdir()):
            raise StaleError(
                f"{self._out}: holds files and no {WEIGHTS}; restore it, or begin again with "
                "`hermes train --fresh`"
            )
        return published

    def resume(self, policy: Policy) -> int:
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
            (self.folder / SEAL).unlink(missing_ok=True)
            write_file(self.folder / BASIS, msgspec.json.encode(self._basis))
            write_file(self.metrics, b"".join(lines[:done]))
        return done

    def append(self, step: TrainStep) -> None:
        """Adds a line to the metrics."""
        with writing(self.metrics), self.metrics.open("ab") as lines:
            lines.write(msgspec.json.encode(step) + b"\n")

    def save(self, policy: Policy, done: int) -> None:
        """Keeps the state after `done` steps and forgets all but the latest few."""
        if policy.rank == 0:
            # A state that outlives a power loss must find its steps in the metrics.
            sync(self.metrics)
        policy.save(self.folder / f"state-{done:06d}")
        if policy.rank == 0:
            states = self._states()
            for old in sorted(states)[: -self._basis.config.keep]:
                remove_folder(states[old])

    def publish(self, policy: Policy) -> None:
        """Writes the finished checkpoint; what led to it does not change any more."""
        if policy.rank == 0:
            sync(self.metrics)
            seal(self.folder, (BASIS, METRICS))
        policy.publish(self._out)

    def _states(self) -> dict[int, Path]:
        """Number of steps -> folder of every complete state."""
        found = self.folder.glob(STATES)
        return {int(path.name.removeprefix("state-")): path for path in found}


def folder_of(out: Path) -> Path:
    """Where the training into `out` has its metrics and states."""
    return out.with_name(out.name + ".training")


def clear_states(out: Path) -> None:
    """Removes the resumable states of a training that has published `out`."""
    folder = folder_of(out)
    for state in folder.glob(STATES):
        # All ranks come here, and each may find a folder that another has just removed.
        with suppress(FileNotFoundError):
            remove_folder(state)
    sweep(folder, STATES)


def _flat(basis: RunBasis) -> dict[str, object]:
    """What two runs must share to be one."""
    config = {
        name: value for name, value in msgspec.to_builtins(basis.config).items() if name not in RUNTIME_FIELDS
    }
    reference = msgspec.to_builtins(basis.reference)
    weights = {"starting weights": basis.start, "reference weights": reference.pop("weights")}
    return {**config, **weights, **reference}
