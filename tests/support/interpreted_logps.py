"""Runs the Triton kernels in Triton's interpreter; prints their errors, case by case, as JSON.

A script, for the interpreter must be switched on before anything imports Triton.
"""

from __future__ import annotations

import json
import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["HERMES_LOGPS"] = "triton"

import torch
from logps_problem import error, exact, problem, run

from train.logps.dispatch import token_logps
from train.logps.fused import fused_logps
from train.logps.head import eager_logps

CASES = {
    "float32": (37, 301, torch.float32, True),
    "float32 without bias": (37, 301, torch.float32, False),
    "bfloat16": (37, 301, torch.bfloat16, True),
    "bfloat16 without bias": (18, 97, torch.bfloat16, False),
    "one token": (1, 65, torch.float32, True),
    "no tokens": (0, 65, torch.float32, True),
    "several chunks": (21, 600, torch.float32, True),
}


def case(name: str) -> dict[str, list[float] | bool]:
    tokens, vocabulary, dtype, bias = CASES[name]
    values = problem(tokens, vocabulary, dtype, bias=bias, width=40)
    wanted = exact(values)
    found = run(fused_logps, values, tile_bytes=1) if name == "several chunks" else run(token_logps, values)
    twin = run(eager_logps, values)
    triples = list(zip(found, twin, wanted, strict=True))
    some = [triple for triple in triples if triple[2].any()]
    return {
        "types": all(one.dtype == other.dtype for one, other, _ in triples),
        "errors": [error(one, right) for one, _, right in some],
        "eager": [error(other, right) for _, other, right in some],
        "slack": [4 * torch.finfo(one.dtype).eps for one, _, _ in some],
        "zeros": not any(one.any() for one, _, right in triples if not right.any()),
    }


if __name__ == "__main__":
    print(json.dumps({name: case(name) for name in CASES}))
