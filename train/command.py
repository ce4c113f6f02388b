"""The reference pass that `hermes reference` and `hermes train` call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from train.data.batch import Layout
from train.distributed.device import open_device
from train.logps.row_logps import load_scorer
from train.reference.inputs import TrainingInputs
from train.reference.ranks import blocks_by_ranks
from train.reference.reference import FREE, ScoreBlocks, blocks_here, compute_reference
from train.reference.store import PartialStore


def precompute(
    inputs: TrainingInputs,
    store: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
    ranks: int = 1,
) -> Path:
    """Scores the preferences under the frozen checkpoint, the reference, into Zarr.

    Does nothing where `store` already fits, goes on where it was killed, and replaces a store of other
    weights, preferences or masks. `report` gets (preferences done, preferences in all). `ranks` processes
    share the work, the cores or GPUs; they are started here: under a launcher, call this before the launch.

    Raises:
        DataError: the preferences do not fit the checkpoint.
        CheckpointError: the checkpoint cannot be loaded.
        BusyError: another process computes this store.
    """
    layout = Layout.load(inputs.frozen, inputs.features)
    score = blocks_by_ranks(inputs, store, ranks) if ranks > 1 else _blocks_alone(inputs, layout)
    return compute_reference(store, inputs.basis.reference, inputs.preferences, layout, score, report)


def _blocks_alone(inputs: TrainingInputs, layout: Layout) -> ScoreBlocks:
    """Scoring in this process; the model is loaded when there is something to score."""

    def score(store: PartialStore, numbers: Sequence[int]) -> Iterable[int]:
        with open_device(inputs.config, advice=FREE) as device:
            scorer = load_scorer(inputs.frozen, inputs.config.dtype, device)
            blocks = blocks_here(inputs.preferences, inputs.basis.reference, layout, scorer)
            yield from blocks(store, numbers)

    return score
