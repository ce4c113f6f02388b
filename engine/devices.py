"""Which device this process computes on: the one place that asks torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from engine.errors import EngineError

OLDEST = (8, 0)
"""Least compute capability (Ampere): older cards have no bfloat16 in hardware."""
DRIVER = "580"
"""NVIDIA's first driver series for CUDA 13, which the locked wheels are built for."""

ENDED = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
"""What CUDA's allocator and driver, its libraries, and the CPU's allocator say when there is no more."""


LESS = (
    "lower engine.kv_cache_gib or engine.max_sequences, or end what else runs there (on a GPU `nvidia-smi` "
    "lists it)"
)
"""What to do where an engine runs out of memory."""


@contextmanager
def enough_memory(what: str, advice: str = LESS) -> Iterator[None]:
    """Raises EngineError, which ends with `advice`, where a device's memory runs out meanwhile."""
    try:
        yield
    except RuntimeError as error:
        # It has one type from torch's allocator, others where a context or a library finds none.
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in ENDED):
            raise
        # What torch says in front of its own advice.
        said = ". ".join(str(error).strip().partition("\n")[0].split(". ")[:2]).rstrip(".")
        raise EngineError(f"{what}: the device's memory ran out ({said}); {advice}") from error


def compute_device() -> torch.device:
    """The GPU that torch would take, with a CUDA build of torch; the CPU with a CPU build.

    Raises:
        EngineError: a CUDA build finds no usable GPU, or torch is built for another kind of device.
    """
    if torch.version.cuda is None:
        if torch.version.hip is not None or torch.xpu.is_available():
            raise EngineError("this torch is built for neither CPUs nor NVIDIA GPUs; run `make setup` again")
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EngineError(
            f"torch is built for CUDA {torch.version.cuda} and finds no GPU: there is none, or its driver is "
            f"older than {DRIVER} (`nvidia-smi` shows both); for CPUs run `make setup DEVICE=cpu`"
        )
    found = torch.cuda.get_device_capability()
    if found < OLDEST:
        raise EngineError(
            f"{torch.cuda.get_device_name()} has compute capability {found[0]}.{found[1]}, Hermes needs "
            f"{OLDEST[0]}.{OLDEST[1]} (Ampere) or later; for CPUs run `make setup DEVICE=cpu`"
        )
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """On a GPU, convolutions in whole float32, by the same kernel every time: a code may hang on a sign."""
    cudnn: Any = torch.backends.cudnn
    # Not `cudnn.flags`, which fails where vLLM's batch-invariant mode has set precisions one by one.
    before = cudnn.deterministic, cudnn.conv.fp32_precision
    cudnn.deterministic, cudnn.conv.fp32_precision = True, "ieee"
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.conv.fp32_precision = before
