"""In which floating-point type a model is served."""

from __future__ import annotations

import torch

from engine.devices import compute_device
from engine.errors import EngineError

SERVED = ("float32", "bfloat16")


def serving_dtype(name: str, device: torch.device | None = None) -> str:
    """The type that a setting names on a device, by default `compute_device`.

    `default` is bfloat16 on a GPU and float32 on a CPU. `auto` takes bfloat16 also where a CPU multiplies it
    in hardware: without such instructions its products are emulated, at a small part of float32's speed.

    Raises:
        EngineError: the setting is not known, or this process has no device that it may compute on.
    """
    if name in SERVED:
        return name
    if name not in ("default", "auto"):
        raise EngineError(f"dtype {name!r} is not served; take default, auto, {' or '.join(SERVED)}")
    fast = (device or compute_device()).type == "cuda"
    if name == "auto":
        cpu = torch.cpu.get_capabilities()
        fast |= cpu.get("amx_tile", False) or cpu.get("avx512_bf16", False)
    return "bfloat16" if fast else "float32"
