"""However a step is carried out, it is the same step: micro-batches, recomputation, ZeRO stages, offload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from training import CONFIG, distance, metrics_of, run, weights

from engine.checkpoints.weights import load_model, save_state
from engine.errors import ConfigError
from engine.records import Preference
from train.config import TrainConfig
from train.data.batch import Layout
from train.distributed.deepspeed_config import deepspeed_config
from train.distributed.policy import open_policy

SHORT = msgspec.structs.replace(CONFIG, steps=4, warmup=1)


@pytest.fixture
def pairs(
    tmp_path: Path,
    preferences_like: Callable[..., list[Preference]],
    write_pairs: Callable[[Path, list[Preference]], Path],
) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl", preferences_like(7, missing_captions=(1, 5)))


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_size": 1},
        {"micro_batch_size": 2, "zero_stage": 2},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "micro_batch_size": 2, "zero_stage": 0},
        {"zero_stage": 0},
        {"zero_stage": 1},
        {"zero_stage": 2},
        {"zero_stage": 1, "offload": "cpu"},
        {"zero_stage": 3, "offload": "cpu"},
    ],
    ids=str,
)
def test_the_steps_are_those_of_the_plain_run(
    tmp_path: Path, pairs: Path, checkpoint: Path, changes: dict
) -> None:
    plain = run(pairs, checkpoint, tmp_path / "plain", SHORT)
    other = run(pairs, checkpoint, tmp_path / "other", msgspec.structs.replace(SHORT, **changes))
    for one, two in zip(metrics_of(plain), metrics_of(other), strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-4)
        assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-3)
        assert two.tokens == one.tokens
        assert two.captions is not None
        assert one.captions is not None
        assert two.captions.pairs == one.captions.pairs
    moved = distance(weights(checkpoint), weights(plain))
    assert distance(weights(plain), weights(other)) < 1e-3 * moved


def gradient(checkpoint: Path, checkpointing: bool) -> tuple[torch.Tensor, int]:
    """The gradient of a few rows, and how many numbers the forward pass kept for it."""
    layout = Layout.load(checkpoint)
    rows = layout.stack([layout.caption_row(range(9), (5, 6, 7)), layout.caption_row(range(9), (8, 9))])
    model = load_model(checkpoint).train()
    model.checkpointing = checkpointing
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(rows.ids_RT, rows.mask, rows.positions_RT)
    count = kept
    out.square().sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), count


def test_checkpointing_gives_the_same_gradients_from_less_memory(checkpoint: Path) -> None:
    plain, much = gradient(checkpoint, False)
    again, little = gradient(checkpoint, True)
    assert torch.equal(plain, again)
    assert little < 0.3 * much


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_keeps_float32_masters_and_updates_below_its_rounding(
    tmp_path: Path, checkpoint: Path, stage: int
) -> None:
    """Weights that bfloat16 cannot hold, and updates that it cannot tell, both come out as they are."""
    exact = {name: value + 1e-5 * value.abs() for name, value in weights(checkpoint).items()}
    config = TrainConfig(dtype="bfloat16", zero_stage=stage, weight_decay=0.0, batch_size=1, trackers=())
    save_state(exact, load_model(checkpoint).config, tmp_path / "exact", checkpoint)
    layout = Layout.load(checkpoint)
    rows = layout.stack([layout.caption_row(range(9), (5, 6, 7))])
    with open_policy(config, tmp_path / "exact") as policy:
        for _ in range(3):
            policy.step([-policy(rows).mean()], 1e-6)
        policy.publish(tmp_path / "out")
    after = weights(tmp_path / "out")
    assert {value.dtype for value in after.values()} == {torch.float32}
    name = "showo.model.layers.0.mlp.fc1.weight"
    change = (after[name] - exact[name]).abs()
    # Adam moves every weight by about the rate a step, less than bfloat16 can tell from a weight of 0.1.
    assert 0 < float(change.max()) < 4e-6
    assert float((change > 0).float().mean()) > 0.5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"micro_batch_size": 3}, "micro_batch_size is 3"),
        ({"micro_batch_size": 8}, "micro_batch_size is 8"),
        ({"zero_stage": 0, "dtype": "bfloat16"}, "zero_stage 1 to 3"),
        ({"zero_stage": 0, "offload": "cpu"}, "offload cpu needs zero_stage 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**config)


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of the 3 ranks"):
        deepspeed_config(TrainConfig(batch_size=4), 3)
    with pytest.raises(ConfigError, match="must divide a rank's share of the batch, 2"):
        deepspeed_config(TrainConfig(batch_size=4, micro_batch_size=4), 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("offload", ["none", "cpu"])
def test_deepspeed_takes_the_settings_for_many_gpus(offload: str, dtype: str) -> None:
    """Read and validated as for eight ranks; nothing is run."""
    from deepspeed.runtime.config import DeepSpeedConfig

    config = TrainConfig(batch_size=64, micro_batch_size=2, device="cuda", dtype=dtype, offload=offload)
    made = deepspeed_config(config, 8)
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]) == (2, 4)
    read = DeepSpeedConfig(made)
    assert read.zero_optimization_stage == 3
    assert read.zero_config.offload_optimizer is None or read.zero_config.offload_optimizer.device == offload
