"""In which floating-point type a model is served."""

from __future__ import annotations

import torch

from engine.devices import compute_device
from engine.errors import EngineError

SERVED = ("float32", "bfloat16")


def serving_dtype(name: str, device: torch.device | None = None) -> str:
    """The type that a setting names; `auto` is what the device is fast at, by default `compute_device`.

    That is bfloat16 on a GPU and where a CPU multiplies it in hardware, else float32: without such
    instructions bfloat16 products are emulated, at a small part of float32's speed.

    Raises:
        EngineError: the setting is not known, or this process has no device that it may compute on.
    """
    if name == "auto":
        on_gpu = (device or compute_device()).type == "cuda"
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return "bfloat16" if on_gpu or fast else "float32"
    if name not in SERVED:
        raise EngineError(f"dtype {name!r} is not served; take auto, {' or '.join(SERVED)}")
    return name
