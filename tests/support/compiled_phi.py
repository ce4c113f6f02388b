"""Compiles the Triton kernels of Phi's blocks for GPUs that are not there; prints what for, as JSON.

A script, for Triton's interpreter, which other tests switch on, must be off.
"""

from __future__ import annotations

import json
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from engine.kernels import phi_triton

AMPERE, HOPPER = 80, 90
SHOWO = {"H": 32, "E": 64, "ROTARY": 32, "HEADS": 32, "HALF": 16, "REST": 32}
NARROW = {"H": 3, "E": 80, "ROTARY": 80, "HEADS": 4, "HALF": 64, "REST": 1}


def built(kernel: Any, number: str, capability: int, sizes: dict[str, int]) -> bool:
    """Whether a program for the card came out; pointers are to `number`s but for the tables."""
    kinds = {"eps": "fp32", "cos": "*fp32", "sin": "*fp32", "tables": "i32", "count": "i64"}
    signature = {
        name: "constexpr" if name in sizes else kinds.get(name, f"*{number}") for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature, constexprs=sizes)
    return bool(compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"])


if __name__ == "__main__":
    cases = [(phi_triton._gelu, {"BLOCK": 1024}), (phi_triton._heads, SHOWO), (phi_triton._heads, NARROW)]
    found = {
        f"{kernel.fn.__name__}, {number}, {capability}, {sizes}": built(kernel, number, capability, sizes)
        for kernel, sizes in cases
        for number, capability in (("bf16", AMPERE), ("bf16", HOPPER), ("fp32", HOPPER))
    }
    print(json.dumps(found))
