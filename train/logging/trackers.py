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
from typing import Any, NamedTuple

import msgspec

from engine.errors import ConfigError
from train.config import TrainConfig
from train.logging.metrics import TrainStep, scalars

FOLDER = "tensorboard"


class Tracker(NamedTuple):
    """Takes steps in order."""

    add: Callable[[dict[str, float], int], object]
    """Takes the numbers of one step, and its own."""
    flush: Callable[[], object]
    """Puts everything so far where a killed process leaves it."""
    close: Callable[[], object]

    def log(self, step: TrainStep) -> None:
        """Takes one step."""
        self.add(scalars(step), step.step)


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


def _open_tensorboard(config: TrainConfig, folder: Path, done: int) -> Tracker:
    """Event files in `<out>.training/tensorboard`. A resumed run has points after its state purged."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(folder / FOLDER), purge_step=done + 1)

    def add(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return Tracker(add, writer.flush, writer.close)


def _library(library: Any, **arguments: Any) -> Tracker:
    """wandb or trackio, which share these calls; both keep what they get on this machine, as they go."""
    library.init(project="hermes", resume="allow", **arguments)
    return Tracker(lambda numbers, step: library.log(numbers, step=step), lambda: None, library.finish)


def _open_wandb(config: TrainConfig, folder: Path, done: int) -> Tracker:
    import wandb

    # Steps that a resumed run repeats are the same numbers; wandb keeps the first.
    return _library(
        wandb,
        name=folder.parent.name,
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=msgspec.to_builtins(config),
        id=_run_id(folder),
    )


def _open_trackio(config: TrainConfig, folder: Path, done: int) -> Tracker:
    import trackio

    return _library(trackio, name=_run_id(folder), config=msgspec.to_builtins(config))


def _run_id(folder: Path) -> str:
    """The same for a run and its continuations."""
    return hashlib.blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()


_OPEN: Mapping[str, Callable[[TrainConfig, Path, int], Tracker]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "trackio": _open_trackio,
}
