"""The device that computes log-probs and gradients, for as long as a context lasts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from engine.devices import enough_memory
from engine.errors import ConfigError
from train.config import TrainConfig

LESS = (
    "free it, lower train.micro_batch_size, or set train.gradient_checkpointing or train.offload=cpu; what "
    "is done is kept, and the same command goes on from there (train.lora_rank takes least, in a run of its "
    "own)"
)
"""What to do where a training runs out of memory."""


@contextmanager
def open_device(config: TrainConfig, number: int = 0, advice: str = LESS) -> Iterator[torch.device]:
    """The CPU, or this machine's GPU of that number as torch's current one, its bits the same on every run.

    Reference and policy both compute here, so that both get the same kernels.

    Raises:
        ConfigError: there is no such GPU.
        EngineError: the device's memory ran out; ends with `advice`.
    """
    device = torch.device(config.device_type)
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not found:
            raise ConfigError("train: device is cuda, but torch finds no CUDA device; use device cpu")
        if number >= found:
            raise ConfigError(f"train: rank {number} of this machine has no GPU, there are {found}")
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    with same_bits() if device.type == "cuda" else nullcontext(), enough_memory(f"train on {device}", advice):
        yield device


@contextmanager
def same_bits() -> Iterator[None]:
    """Kernels that repeat to the bit on one GPU, and float32 products without TF32.

    Of our operations only the backward pass of attention would differ from run to run: it adds with atomics.
    Sums by index are over distinct rows, and the embedding's gradient is sorted first.
    """
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    filled = settings.fill_uninitialized_memory
    # Read when cuBLAS is first used, and demanded by what follows.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("highest")
    # Else every buffer that is about to be written would be filled with NaN first.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_float32_matmul_precision(before[1])
        settings.fill_uninitialized_memory = filled
