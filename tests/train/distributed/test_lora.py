"""LoRA: adapters alone are trained, and what is published is an ordinary checkpoint."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from training import CONFIG, metrics_of, run, weights

from engine.checkpoints.swap_probe import PROBES
from engine.checkpoints.weights import load_model
from engine.errors import ConfigError
from engine.files.seals import SEAL
from train.config import LINEARS, TrainConfig
from train.data.batch import Layout
from train.distributed.lora import add_adapters
from train.distributed.policy import open_policy
from train.logging.metrics import TrainStep
from train.logps.row_logps import RowLogps

LORA = msgspec.structs.replace(CONFIG, steps=24, learning_rate=5e-3, lora_rank=4)


def test_adapters_learn_and_merge_into_a_full_checkpoint(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    steps: list[TrainStep] = []
    out = run(pairs_file, checkpoint, tmp_path / "out", LORA, steps.append)
    assert abs(steps[0].margin) < 1e-4
    assert steps[-1].loss < 0.7 * steps[0].loss
    before, after = weights(checkpoint), weights(out)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in changed} == set(LINEARS)
    assert all(name.endswith("weight") for name in changed)
    load_model(out)
    written = {path.name for path in checkpoint.iterdir()} | {PROBES, SEAL}
    assert {path.name for path in out.iterdir()} == written


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_merged_checkpoint_gives_the_log_probs_of_the_trained_adapters(
    tmp_path: Path, checkpoint: Path, stage: int
) -> None:
    config = msgspec.structs.replace(LORA, zero_stage=stage, lora_targets=("q_proj", "fc2"), lora_alpha=6.0)
    layout = Layout.load(checkpoint)
    rows = layout.stack([layout.caption_row(range(9), (5, 6, 7)), layout.caption_row(range(9), (8, 9))])
    with open_policy(config, checkpoint) as policy:
        before = policy(rows).detach()
        for _ in range(4):
            policy.step([-policy(rows).mean()], 1e-2)
        trained = policy(rows).detach()
        policy.publish(tmp_path / "out")
    torch.testing.assert_close(before, RowLogps(load_model(checkpoint))(*rows).detach())
    assert float((trained - before).abs().min()) > 0.1
    torch.testing.assert_close(trained, RowLogps(load_model(tmp_path / "out"))(*rows).detach())


def test_only_adapters_have_gradients_and_optimizer_state(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    model = load_model(checkpoint)
    add_adapters(model, LORA)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(LINEARS) * len(model.layers)
    assert all("lora_" in name for name in trained)
    again = load_model(checkpoint)
    add_adapters(again, LORA)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_the_first_step_has_the_reference_that_a_full_run_has(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    full = run(pairs_file, checkpoint, tmp_path / "full", msgspec.structs.replace(CONFIG, steps=2, warmup=0))
    lora = run(pairs_file, checkpoint, tmp_path / "lora", msgspec.structs.replace(LORA, steps=2, warmup=0))
    one, two = metrics_of(full)[0], metrics_of(lora)[0]
    assert two.loss == pytest.approx(one.loss, abs=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"lora_rank": -1}, {"lora_alpha": 0.0}, {"lora_targets": ()}, {"lora_targets": ("lm_head",)}]
)
def test_unusable_settings_are_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)
