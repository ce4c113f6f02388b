"""What `hermes reference` and `hermes train` call: paths in, paths out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from engine.feature_files import FEATURES
from engine.weights import load_model
from train.batch import Layout
from train.config import TrainConfig
from train.loop import train
from train.metrics import TrainStep
from train.preferences import load_preferences
from train.reference import ReferenceBasis, compute_reference
from train.row_logps import RowLogps


def precompute(
    pairs: Path,
    checkpoint: Path,
    store: Path,
    config: TrainConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Scores the preferences of a JSON-lines file under the frozen checkpoint into a Zarr store.

    Does nothing where `store` already fits, goes on where it was killed, and replaces a store of other
    weights, preferences or masks. Of `config` only mask_draws, seed, device, dtype and image_vocabulary
    matter. `report` gets (preferences done, preferences in all). For one process: under a launcher, call it
    before the launch.

    Raises:
        DataError: the file cannot be used, or does not fit the checkpoint.
        CheckpointError: the checkpoint cannot be loaded.
    """
    preferences = load_preferences(pairs)
    basis = ReferenceBasis.of(checkpoint, preferences, config)
    loaded = load_model(checkpoint, getattr(torch, config.dtype)).to(config.device)
    model = RowLogps(loaded, config.image_vocabulary)
    layout = Layout.load(checkpoint, pairs.parent / FEATURES)
    return compute_reference(store, basis, preferences, layout, model, report)


def run_training(
    pairs: Path,
    checkpoint: Path,
    out: Path,
    store: Path,
    config: TrainConfig,
    report: Callable[[TrainStep], None] = lambda step: None,
) -> Path:
    """Pair-DPO from `checkpoint` into the new checkpoint folder `out`, which it returns.

    `store` must hold the reference log-probs of `precompute` for the same pairs, checkpoint and config.
    Metrics and the resumable state live in `<out>.training`; calling again after a kill goes on from there.

    Raises:
        HermesError: see `train.loop.train`.
    """
    features = pairs.parent / FEATURES
    return train(config, load_preferences(pairs), checkpoint, out, store, report, features)
