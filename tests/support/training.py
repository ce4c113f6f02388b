"""Runs of Pair-DPO on a tiny checkpoint, whole and interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from train.command import precompute
from train.config import TrainConfig
from train.logging.metrics import TrainStep, read_metrics, timeless
from train.loop import run_training
from train.reference.inputs import read_inputs

CONFIG = TrainConfig(steps=12, warmup=2, learning_rate=1e-3, save_every=4, num_masks=2, trackers=())


class KilledError(Exception):
    """Stands for the signal that ends a process."""


def die_at(step: int) -> Callable[[TrainStep], None]:
    """A report that ends the run when it is told of a step."""

    def report(record: TrainStep) -> None:
        if record.step == step:
            raise KilledError

    return report


def run(
    pairs: Path,
    checkpoint: Path,
    out: Path,
    config: TrainConfig = CONFIG,
    report: Callable[[TrainStep], None] = lambda step: None,
) -> Path:
    """Reference log-probs, then training."""
    store = out.with_name("refs.zarr")
    inputs = read_inputs(pairs, checkpoint, config)
    return run_training(inputs, out, precompute(inputs, store), report)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors."""
    return load_file(folder / "model.safetensors")


def metrics_of(out: Path) -> list[TrainStep]:
    """A run's steps without what the machine decides."""
    return [timeless(step) for step in read_metrics(out.with_name(out.name + ".training") / "metrics.jsonl")]


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Square of the 2-norm of the difference of all weights."""
    assert one.keys() == two.keys()
    return sum(float((one[name] - two[name]).square().sum()) for name in one)
