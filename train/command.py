"""What `hermes reference` and `hermes train` call: paths in, paths out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from engine.checkpoints.weights import load_model
from engine.files.clip_features import FEATURES
from engine.records import Preference
from train.config import TrainConfig
from train.data.batch import Layout
from train.data.preferences import load_preferences
from train.distributed.device import open_device
from train.logging.metrics import TrainStep
from train.logging.run_state import Journal, begun
from train.logps.row_logps import RowLogps
from train.loop import run_basis, train
from train.reference.ranks import blocks_by_ranks
from train.reference.reference import FREE, ReferenceBasis, ScoreBlocks, blocks_here, compute_reference
from train.reference.store import PartialStore


def precompute(
    pairs: Path,
    checkpoint: Path,
    store: Path,
    config: TrainConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
    ranks: int = 1,
) -> Path:
    """Scores the preferences of a JSON-lines file under a frozen checkpoint, the reference, into Zarr.

    Does nothing where `store` already fits, goes on where it was killed, and replaces a store of other
    weights, preferences or masks. Of `config` only mask_draws, least_hidden, text_dropout, seed, device,
    dtype and image_vocabulary matter. `report` gets (preferences done, preferences in all). `ranks`
    processes share the work, the cores or GPUs; they are started here: under a launcher, call this before
    the launch.

    Raises:
        DataError: the file cannot be used, or does not fit the checkpoint.
        CheckpointError: the checkpoint cannot be loaded.
        BusyError: another process computes this store.
    """
    preferences = load_preferences(pairs)
    basis = ReferenceBasis.of(checkpoint, preferences, config)
    features = pairs.parent / FEATURES
    layout = Layout.load(checkpoint, features)
    if ranks > 1:
        score = blocks_by_ranks(pairs, checkpoint, features, store, config, basis, ranks)
    else:
        score = _blocks_alone(preferences, checkpoint, layout, config, basis)
    return compute_reference(store, basis, preferences, layout, score, report)


def _blocks_alone(
    preferences: Sequence[Preference],
    checkpoint: Path,
    layout: Layout,
    config: TrainConfig,
    basis: ReferenceBasis,
) -> ScoreBlocks:
    """Scoring in this process; the model is loaded when there is something to score."""

    def score(store: PartialStore, numbers: Sequence[int]) -> Iterable[int]:
        with open_device(config, advice=FREE) as device:
            loaded = load_model(checkpoint, getattr(torch, config.dtype)).to(device)
            model = RowLogps(loaded, config.image_vocabulary)
            yield from blocks_here(preferences, basis, layout, model)(store, numbers)

    return score


def run_training(
    pairs: Path,
    checkpoint: Path,
    out: Path,
    store: Path,
    config: TrainConfig,
    report: Callable[[TrainStep], None] = lambda step: None,
    frozen: Path | None = None,
) -> Path:
    """Pair-DPO from `checkpoint` into the new checkpoint folder `out`, which it returns.

    `store` must hold the reference log-probs of `precompute` for the same pairs and config under `frozen`,
    by default the checkpoint that training starts from. Metrics and the resumable state live in
    `<out>.training`; calling again after a kill goes on from there.

    Raises:
        HermesError: see `train.loop.train`.
    """
    features = pairs.parent / FEATURES
    return train(config, load_preferences(pairs), checkpoint, out, store, report, features, frozen)


def require_same_run(
    pairs: Path, checkpoint: Path, out: Path, config: TrainConfig, frozen: Path | None = None
) -> None:
    """Raises StaleError where a training into `out` was begun otherwise; computes nothing."""
    if begun(out):
        Journal(out, run_basis(config, load_preferences(pairs), checkpoint, frozen)).require_same()
