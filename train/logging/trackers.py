"""Who else is told of every step: TensorBoard event files, Weights & Biases, Trackio.

metrics.jsonl remains the record of a run. Trackers get the same numbers under the names of
`metrics.scalars`; `seconds` and `peak_memory_mib` among them are the machine's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import msgspec

from engine.errors import ConfigError
from train.config import TrainConfig
from train.logging.metrics import TrainStep, scalars

FOLDER = "tensorboard"


class Tracker(Protocol):
    """Takes steps in order."""

    def log(self, step: TrainStep) -> None:
        """Takes one step."""
        ...

    def flush(self) -> None:
        """Puts everything so far where a killed process leaves it."""
        ...

    def close(self) -> None:
        """Ends."""
        ...


class Trackers:
    """Several trackers as one."""

    def __init__(self, members: Sequence[Tracker]) -> None:
        self._members = members

    def log(self, step: TrainStep) -> None:
        """Takes one step."""
        for member in self._members:
            member.log(step)

    def flush(self) -> None:
        """Puts everything so far where a killed process leaves it."""
        for member in self._members:
            member.flush()

    def close(self) -> None:
        """Ends."""
        for member in self._members:
            member.close()


@contextmanager
def open_trackers(config: TrainConfig, folder: Path, done: int, rank: int = 0) -> Iterator[Trackers]:
    """The trackers of the run in `<out>.training`, of which `done` steps are done; none but on rank 0.

    Raises:
        ConfigError: one is not installed.
    """
    for name in config.trackers:
        if find_spec(name) is None:
            raise ConfigError(
                f"train: trackers names {name}, which is not installed; `pip install {name}`, or leave it out"
            )
    names = config.trackers if rank == 0 else ()
    trackers = Trackers([_OPEN[name](config, folder, done) for name in names])
    try:
        yield trackers
    finally:
        trackers.close()


class TensorBoard:
    """Event files in `<out>.training/tensorboard`. A resumed run has points after its state purged."""

    def __init__(self, config: TrainConfig, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / FOLDER), purge_step=done + 1)

    def log(self, step: TrainStep) -> None:
        """Takes one step."""
        for name, value in scalars(step).items():
            self._writer.add_scalar(name, value, step.step)

    def flush(self) -> None:
        """Writes what is in memory."""
        self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        self._writer.close()


class _Library:
    """wandb and trackio, which share these three calls; both keep what they get on this machine."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def log(self, step: TrainStep) -> None:
        """Takes one step."""
        self._library.log(scalars(step), step=step.step)

    def flush(self) -> None:
        """Does nothing: both write as they go."""

    def close(self) -> None:
        """Ends the run."""
        self._library.finish()


def _open_wandb(config: TrainConfig, folder: Path, done: int) -> Tracker:
    import wandb

    # Steps that a resumed run repeats are the same numbers; wandb keeps the first.
    wandb.init(
        project="hermes",
        name=folder.parent.name,
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=msgspec.to_builtins(config),
        resume="allow",
        id=_run_id(folder),
    )
    return _Library(wandb)


def _open_trackio(config: TrainConfig, folder: Path, done: int) -> Tracker:
    import trackio

    trackio.init(project="hermes", name=_run_id(folder), config=msgspec.to_builtins(config), resume="allow")
    return _Library(trackio)


def _run_id(folder: Path) -> str:
    """The same for a run and its continuations."""
    return hashlib.blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()


_OPEN: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": _open_wandb, "trackio": _open_trackio}
