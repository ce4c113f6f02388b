"""Who else is told of every step: TensorBoard event files, Weights & Biases, Trackio.

metrics.jsonl remains the record of a run. Trackers get the same numbers under the names of
`metrics.scalars`; `seconds` and `peak_memory_mib` among them are the machine's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
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

    def flush(self) -> None:
        """Puts everything so far where a killed process leaves it."""

    def close(self) -> None:
        """Ends."""


@contextmanager
def open_trackers(
    config: TrainConfig, folder: Path, done: int, rank: int = 0
) -> Iterator[tuple[Tracker, ...]]:
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
    with ExitStack() as stack:
        yield tuple(stack.enter_context(closing(_OPEN[name](config, folder, done))) for name in names)


class TensorBoard:
    """Event files in `<out>.training/tensorboard`. A resumed run has points after its state purged."""

    def __init__(self, config: TrainConfig, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / FOLDER), purge_step=done + 1)
        self.flush, self.close = self._writer.flush, self._writer.close

    def log(self, step: TrainStep) -> None:
        """Takes one step."""
        for name, value in scalars(step).items():
            self._writer.add_scalar(name, value, step.step)


class _Library:
    """wandb and trackio, which share these calls; both keep what they get on this machine."""

    def __init__(self, library: Any, **arguments: Any) -> None:
        library.init(project="hermes", resume="allow", **arguments)
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
    return _Library(
        wandb,
        name=folder.parent.name,
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=msgspec.to_builtins(config),
        id=_run_id(folder),
    )


def _open_trackio(config: TrainConfig, folder: Path, done: int) -> Tracker:
    import trackio

    return _Library(trackio, name=_run_id(folder), config=msgspec.to_builtins(config))


def _run_id(folder: Path) -> str:
    """The same for a run and its continuations."""
    return hashlib.blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()


_OPEN: Mapping[str, Callable[[TrainConfig, Path, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": _open_wandb,
    "trackio": _open_trackio,
}
