"""What a round's training reads, each file once, and what decides its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.checkpoints.weights import fingerprint, load_config
from engine.files.clip_features import FEATURES
from engine.records import Preference, Record
from train.config import TrainConfig
from train.data.preferences import load_preferences, usable
from train.reference.reference import ReferenceBasis


class RunBasis(Record):
    """What decides a run's final weights."""

    config: TrainConfig
    """Its learning rate scaled, its device and its seed found, its steps bounded."""
    reference: ReferenceBasis
    start: str
    """Fingerprint of the weights that training starts from."""


class TrainingInputs(NamedTuple):
    """The pairs and checkpoints of a training, read and checked for all that one command does with them."""

    pairs: Path
    preferences: Sequence[Preference]
    checkpoint: Path
    """Training starts from it."""
    frozen: Path
    """The reference."""
    basis: RunBasis

    @property
    def config(self) -> TrainConfig:
        """The settings that the training goes by."""
        return self.basis.config

    @property
    def features(self) -> Path:
        """Folder of the real images' CLIP features, where understanding needs them."""
        return self.pairs.parent / FEATURES


def read_inputs(
    pairs: Path, checkpoint: Path, config: TrainConfig, frozen: Path | None = None
) -> TrainingInputs:
    """Reads a JSON-lines file of preferences for a training from `checkpoint`.

    The reference is `frozen`, by default the checkpoint that training starts from.

    Raises:
        DataError: the file cannot be used.
        CheckpointError: a checkpoint cannot be read.
        ConfigError: `warmup` or `sum_steps` do not fit into the steps that `max_epochs` leaves.
        EngineError: device is auto, and torch does not find the GPU that it is built for.
    """
    preferences, frozen = load_preferences(pairs), frozen or checkpoint
    config = config.for_width(load_config(checkpoint).hidden_size)
    # Not auto: a run goes on where it was begun, for another device rounds otherwise.
    config = msgspec.structs.replace(config, device=config.device_type, seed=config.order_seed)
    if config.max_epochs:
        config = config.for_preferences(len(usable(preferences, config)))
    basis = RunBasis(
        config=config,
        reference=ReferenceBasis.of(frozen, preferences, config),
        start=fingerprint(checkpoint),
    )
    return TrainingInputs(pairs, preferences, checkpoint, frozen, basis)
