"""How much memory training takes: arithmetic against what a forward pass keeps, and one card of 80 GB."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.speed.model_sizes import config_of
from engine.machine.kv_cache import TEXT_TOKENS
from engine.machine.plan import GIB
from engine.models.masks import mmu_mask
from engine.models.showo import Showo
from hermes_cli.main import app
from train.config import TrainConfig
from train.distributed.memory_estimate import Sizes, activation_bytes, gpu_memory

CARD = 80e9 - 3 * GIB
"""An 80 GB card without what CUDA takes of a rank and of an engine that sleeps beside it, about."""
SHOWO = config_of("showo-1.3b")
BF16 = TrainConfig(dtype="bfloat16", device="cuda")
ALL = Sizes(model=1_448_176_770, trained=1_448_176_770)


def most(**changes: object) -> float:
    return gpu_memory(SHOWO, ALL, msgspec.structs.replace(BF16, **changes), 1).most


def test_the_size_is_that_of_the_model() -> None:
    with torch.device("meta"):
        assert sum(one.numel() for one in Showo(SHOWO).parameters()) == ALL.model


def test_1_3b_and_a_batch_of_four_fit_a_card_of_80_gb_beside_a_sleeping_engine() -> None:
    found = gpu_memory(SHOWO, ALL, BF16, 1)
    # Parameters 2 bytes; gradients, masters and both moments 4 each.
    assert found.state == 18 * ALL.model
    assert found.passes == pytest.approx(16.2e9, rel=0.01)
    assert CARD > found.most == pytest.approx(43.3e9, rel=0.01)
    assert most(gradient_checkpointing=True) == pytest.approx(31.1e9, rel=0.01)
    assert max(most(dtype="float32"), most(dtype="float32", gradient_checkpointing=True)) < CARD


def test_what_the_card_does_not_hold_is_held_by_what_an_error_would_advise() -> None:
    assert most(batch_size=32) > CARD
    assert (
        max(most(batch_size=32, micro_batch_size=4), most(batch_size=32, gradient_checkpointing=True)) < CARD
    )
    assert most(offload="cpu") == pytest.approx(most() - 12 * ALL.model)
    adapters = Sizes(model=ALL.model, trained=ALL.model // 100)
    assert gpu_memory(SHOWO, adapters, BF16, 1).most < most() - 20e9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_forward_pass_keeps_no_more_than_is_planned_and_not_much_less(dtype: str) -> None:
    config, small = TrainConfig(batch_size=1, dtype=dtype), config_of("small")
    model = Showo(small).to(getattr(torch, dtype)).train()
    ids = torch.zeros(sum(config.rows_of_sample), small.max_text_len + 64 + TEXT_TOKENS, dtype=torch.long)
    weights = {one.data_ptr() for one in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(ids, mmu_mask(ids, 1))
    planned = activation_bytes(small, config, 1)
    assert 0.6 * planned < sum(one.nbytes() for one in kept.values()) < planned


def test_the_plan_of_a_training_on_a_gpu_says_what_its_card_must_hold(tmp_path: Path) -> None:
    asked = ["train", "--run", str(tmp_path / "run"), "--dry-run", "--set", "train.device=cuda"]
    found = CliRunner().invoke(app, asked)
    said = " ".join(found.output.split())
    assert found.exit_code == 0, said
    assert "each rank's GPU holds at most about" in said
    assert "of all activations and log-probs" in said


def test_a_machine_without_a_gpu_plans_what_it_would_hold_where_torch_is_built_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = CliRunner().invoke(app, ["train", "--run", str(tmp_path / "run"), "--dry-run"])
    assert found.exit_code == 0, found.output
    assert "each rank's GPU holds at most about" in " ".join(found.output.split())
