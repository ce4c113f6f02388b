"""In which floating-point type a model is served."""

from __future__ import annotations

import torch

from engine.errors import EngineError

SERVED = ("float32", "bfloat16")


def serving_dtype(name: str) -> str:
    """The type that a setting names; `auto` is what this CPU is fast at.

    That is bfloat16 where the CPU multiplies it in hardware, else float32: without such instructions bfloat16
    products are emulated, at a small part of float32's speed.

    Raises:
        EngineError: the setting is not known.
    """
    if name == "auto":
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return "bfloat16" if fast else "float32"
    if name not in SERVED:
        raise EngineError(f"dtype {name!r} is not served; take auto, {' or '.join(SERVED)}")
    return name
