"""The reference pass that `hermes reference` and `hermes train` call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from train.data.batch import Layout
from train.reference.inputs import TrainingInputs
from train.reference.ranks import blocks_alone, blocks_by_ranks
from train.reference.reference import ScoreBlocks, compute_reference


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
    score: ScoreBlocks = blocks_by_ranks(inputs, store, ranks) if ranks > 1 else partial(blocks_alone, inputs)
    return compute_reference(store, inputs.basis.reference, inputs.preferences, layout, score, report)
