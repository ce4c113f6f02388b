"""Which device trains, what stays bound to it, and what is said where its memory ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from training import CONFIG, metrics_of, run

from engine.checkpoints.weights import fingerprint, load_model
from engine.devices import compute_device
from engine.errors import ConfigError, EngineError, StaleError
from train.config import TrainConfig
from train.data.batch import Layout
from train.distributed.deepspeed_config import deepspeed_config
from train.distributed.device import open_device, same_bits
from train.logging.metrics import TrainStep
from train.logging.run_state import RunState
from train.logps.row_logps import RowLogps
from train.reference.inputs import RunBasis, read_inputs
from train.reference.reference import FREE, open_reference

GPU = msgspec.structs.replace(CONFIG, device="cuda")


def runs_out_at(step: int) -> Callable[[TrainStep], None]:
    """A report that ends as an allocation of torch's CUDA allocator does."""

    def report(record: TrainStep) -> None:
        if record.step == step:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB of "
                "which 1.21 GiB is free. Process 7 has 12.0 GiB memory in use.\nSee the documentation."
            )

    return report


def test_the_device_is_found_unless_it_is_named() -> None:
    assert TrainConfig().device_type == compute_device().type
    assert (TrainConfig(device="cpu").device_type, GPU.device_type) == ("cpu", "cuda")
    pinned = deepspeed_config(TrainConfig(device="cuda", offload="cpu"), 1)["zero_optimization"]
    assert pinned["offload_optimizer"]["pin_memory"]


def test_a_run_keeps_the_device_that_it_found_and_is_not_continued_on_another(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    here = compute_device().type
    other = msgspec.structs.replace(CONFIG, device="cpu" if here == "cuda" else "cuda")
    out = run(pairs_file, checkpoint, tmp_path / "out")
    basis = msgspec.json.decode((tmp_path / "out.training/basis.json").read_bytes(), type=RunBasis)
    assert (basis.config.device, basis.reference.device) == (here, here)
    with pytest.raises(StaleError, match=f"device '{here}', now '{other.device}'"):
        RunState(out, read_inputs(pairs_file, checkpoint, other).basis).require_same()
    stored = read_inputs(pairs_file, checkpoint, other).basis.reference
    with pytest.raises(StaleError, match=f"device '{here}', this run has '{other.device}'"):
        open_reference(tmp_path / "refs.zarr", stored)


def test_memory_that_ends_in_a_step_is_one_line_of_what_to_lower_and_nothing_is_lost(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    whole, out = run(pairs_file, checkpoint, tmp_path / "whole"), tmp_path / "out"
    with pytest.raises(EngineError) as caught:
        run(pairs_file, checkpoint, out, report=runs_out_at(6))
    message = str(caught.value)
    assert "\n" not in message
    assert "ran out (CUDA out of memory. Tried to allocate 2.00 GiB); free it" in message
    assert all(
        f"train.{name}" in message
        for name in ("micro_batch_size", "gradient_checkpointing", "offload", "lora_rank")
    )
    assert run(pairs_file, checkpoint, out) == out
    assert fingerprint(out) == fingerprint(whole)
    assert metrics_of(out) == metrics_of(whole)


def test_memory_that_ends_in_the_reference_pass_is_one_line_too() -> None:
    with pytest.raises(EngineError) as caught, open_device(CONFIG, advice=FREE):
        torch.empty(1 << 46)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("train on cpu: the device's memory ran out (")
    assert "you tried to allocate 281474976710656 bytes" in message
    assert message.endswith(FREE)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), KeyError("x")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)), open_device(TrainConfig(device="cpu")):
        raise error


def test_a_gpu_that_is_not_there_is_one_line() -> None:
    if torch.cuda.is_available():
        with pytest.raises(ConfigError, match="rank 99 of this machine"), open_device(GPU, 99):
            pass
    else:
        with pytest.raises(ConfigError, match="finds no CUDA device"), open_device(GPU):
            pass


def test_kernels_that_repeat_are_asked_for_no_longer_than_training_lasts(checkpoint: Path) -> None:
    """And torch has such a kernel for all that a step does, here on the CPU."""
    layout = Layout.load(checkpoint)
    rows = layout.stack([layout.caption_row(range(9), (5, 6)), layout.caption_row(range(9), (8,))])
    with same_bits():
        assert torch.are_deterministic_algorithms_enabled()
        RowLogps(load_model(checkpoint))(*rows).sum().backward()
    assert not torch.are_deterministic_algorithms_enabled()
