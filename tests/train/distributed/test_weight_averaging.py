"""Published weights lie part of the way from those that training started from to the trained ones."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from training import CONFIG, run, weights

from engine.checkpoints.swap_probe import PROBES, ProbeSet
from engine.checkpoints.weights import load_model
from engine.errors import ConfigError
from train.config import TrainConfig
from train.data.batch import Layout
from train.logps.row_logps import RowLogps

ALPHA = 0.3
SHORT = msgspec.structs.replace(CONFIG, steps=4, warmup=0, learning_rate=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"zero_stage": 0},
        {"zero_stage": 1, "dtype": "bfloat16"},
        {"zero_stage": 2},
        {"dtype": "bfloat16"},
        {"offload": "cpu"},
        {"lora_rank": 4},
        {"lora_rank": 4, "zero_stage": 0},
    ],
)
def test_published_weights_lie_on_the_way_to_the_trained_ones(
    tmp_path: Path, pairs_file: Path, checkpoint: Path, change: dict
) -> None:
    config = msgspec.structs.replace(SHORT, **change)
    trained = run(pairs_file, checkpoint, tmp_path / "trained", config)
    part = msgspec.structs.replace(config, weight_averaging=ALPHA)
    out = run(pairs_file, checkpoint, tmp_path / "out", part)
    before, after, between = weights(checkpoint), weights(trained), weights(out)
    for name, value in between.items():
        wanted = torch.lerp(before[name].float(), after[name].float(), ALPHA)
        torch.testing.assert_close(value.float(), wanted, rtol=1e-5, atol=1e-6)
    moved = [float((after[name].float() - before[name].float()).abs().max()) for name in before]
    assert max(moved) > 1e-3


def test_the_probes_are_those_of_the_published_weights(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    out = run(
        pairs_file, checkpoint, tmp_path / "out", msgspec.structs.replace(SHORT, weight_averaging=ALPHA)
    )
    probes = msgspec.json.decode((out / PROBES).read_bytes(), type=ProbeSet).probes
    layout = Layout.load(out)
    rows = layout.stack([layout.caption_row(one.codes, one.token_ids) for one in probes])
    found = RowLogps(load_model(out))(*rows).tolist()
    assert found == pytest.approx([one.logp for one in probes], abs=1e-3)


def test_a_training_that_is_stopped_and_goes_on_is_interpolated_once(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    config = msgspec.structs.replace(SHORT, save_every=1, weight_averaging=ALPHA)
    whole = run(pairs_file, checkpoint, tmp_path / "whole", config)

    def kill(step: object) -> None:
        if getattr(step, "step", 0) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pairs_file, checkpoint, tmp_path / "killed", config, kill)
    resumed = run(pairs_file, checkpoint, tmp_path / "killed", config)
    one, two = weights(whole), weights(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("alpha", [0.0, -0.5, 1.5, float("nan")])
def test_other_shares_are_refused_by_name(alpha: float) -> None:
    with pytest.raises(ConfigError, match="weight_averaging"):
        TrainConfig(weight_averaging=alpha)
