"""What this machine can do at most: matrix products at several shapes, and memory bandwidth.

Every number is the best of several tries, with the threads that torch has. `GEMV` reads a matrix once for
each product: the pattern of decoding.

Legend: R rows, D inputs, F outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed.timing import settle
from engine.models.showo_config import ShowoConfig
from engine.records import Record

TRIES = 5
FIRST, LARGE = 512, 2048
"""Sides of the square products: the large one is tried where the first took less than SLOW seconds."""
SLOW = 0.05
LARGE_BYTES = 512 * 2**20
"""Far more than any cache holds."""


class Ceilings(Record):
    """GFLOP/s and GB/s (1e9)."""

    square_gflops: dict[str, float]
    """Of a large square product, for each precision."""
    model_gflops: float
    """Of the model's own products, in the precision that serves."""
    model_rows: int
    """Rows of those products."""
    copy_gb: float
    """Memory copied, reads and writes counted."""
    read_gb: float
    """Matrix-vector products over a matrix larger than the caches."""
    model_read_gb: float
    """The same over matrices that are together as large as the model's weights: caches may hold them."""


def seconds(work: Callable[[], object], tries: int = TRIES) -> float:
    """The best of some tries, after one that does not count."""
    work()
    settle()
    found = []
    for _ in range(tries):
        start = time.perf_counter()
        work()
        settle()
        found.append(time.perf_counter() - start)
    return min(found)


def square_gflops(
    dtype: torch.dtype, device: torch.device | str = "cpu", sides: Sequence[int] = (FIRST, LARGE)
) -> float:
    """The best of some square products, ever larger until one is slow: by default of 512 and 2,048."""
    found = 0.0
    for side in sides:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        took = seconds(lambda a=a, b=b: a @ b, 3)
        found = max(found, 2e-9 * side**3 / took)
        if took > SLOW:
            break
    return found


def products(config: ShowoConfig) -> list[tuple[int, int, int]]:
    """(D, F, times) of the matrix products that one token takes, code head apart."""
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    return [(width, width, 4 * layers), (width, inner, layers), (inner, width, layers)]


def weight_flops(config: ShowoConfig) -> int:
    """FLOPs of one token in all layers' matrix products."""
    return sum(2 * inputs * outputs * times for inputs, outputs, times in products(config))


def model_gflops(config: ShowoConfig, dtype: torch.dtype, rows: int) -> float:
    """The layers' products of so many rows, each as often as the model has it."""
    took = flops = 0.0
    for inputs, outputs, times in products(config):
        x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
        took += times * seconds(lambda x=x, weight=weight: F.linear(x, weight), 3)
        flops += 2 * rows * inputs * outputs * times
    return 1e-9 * flops / took


def copy_gb() -> float:
    """A copy between two large arrays."""
    source = torch.zeros(LARGE_BYTES // 4)
    target = torch.empty_like(source)
    return 2e-9 * LARGE_BYTES / seconds(lambda: target.copy_(source))


def read_gb(size: int, width: int, dtype: torch.dtype) -> float:
    """Matrix-vector products over matrices [width, width] of `size` bytes together."""
    each = width * width * dtype.itemsize
    matrices = [torch.zeros(width, width, dtype=dtype) for _ in range(max(1, size // each))]
    vector = torch.zeros(width, dtype=dtype)

    def work() -> list[Tensor]:
        return [matrix @ vector for matrix in matrices]

    return 1e-9 * each * len(matrices) / seconds(work)


def measure(config: ShowoConfig, dtype: torch.dtype, rows: int, weight_bytes: int) -> Ceilings:
    """All of them, for one model whose products have `rows` rows."""
    width = config.hidden_size
    with torch.inference_mode():
        return Ceilings(
            square_gflops={
                str(one).removeprefix("torch."): square_gflops(one) for one in (torch.float32, torch.bfloat16)
            },
            model_gflops=model_gflops(config, dtype, rows),
            model_rows=rows,
            copy_gb=copy_gb(),
            read_gb=read_gb(LARGE_BYTES, 2048, dtype),
            model_read_gb=read_gb(min(weight_bytes, LARGE_BYTES), width, dtype),
        )
