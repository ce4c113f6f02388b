"""How many canvases, captions or answers share a forward pass.

Legend: R rows of a pass, D hidden.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from engine.machine.kv_cache import token_bytes
from engine.models.showo_config import ShowoConfig

ROWS = 640
"""Canvas rows of a pass for each thread: enough for a good matrix product, few enough for the caches."""
GPU_ROWS = 8192
"""Canvas rows of a pass on a GPU: 16 canvases of 256 codes. Not measured."""
GPU_WORK = 2**31
"""A layer takes about 24 R D^2 FLOPs, and its launches a tenth of a millisecond: below this R D^2 they take
longer. Not measured."""


def planned_batch(config: ShowoConfig, threads: int) -> int:
    """Canvases with guidance, two rows of them each, that a forward pass takes at once.

    More would not be faster, as a canvas is itself many rows, and would need memory in proportion.
    """
    return max(1, round(ROWS * threads / _rows(config)))


def planned_gpu_batch(config: ShowoConfig, candidates: int) -> int:
    """The same on a GPU, where a batch holds the candidates of one prompt, or of several small ones."""
    wanted, candidates = max(1, round(GPU_ROWS / _rows(config))), max(1, candidates)
    if candidates < wanted:
        return candidates * (wanted // candidates)
    return -(-candidates // round(candidates / wanted))


def launches_dominate(config: ShowoConfig, batch: int) -> bool:
    """Whether a GPU computes such a batch in less time than it takes to launch."""
    return batch * _rows(config) * config.hidden_size**2 < GPU_WORK


def _rows(config: ShowoConfig) -> int:
    """Rows of a canvas, with and without its text."""
    return 2 * (config.num_image_tokens + 2)


class Limits(NamedTuple):
    """What bounds the continuations that grow together."""

    dtype: str
    rows: int
    """Continuations in flight."""
    gib: float
    """Their keys and values, those of their images included."""

    def stems(self, config: ShowoConfig, length: int, branches: int, longest: int) -> int:
        """Images of `length` tokens that grow together, each with so many branches of `longest` tokens."""
        tokens = length + branches * longest
        image = tokens * token_bytes(config, self.dtype, config.head_dim)
        return max(1, min(self.rows // branches, int(self.gib * 2**30 / image)))


T = TypeVar("T")


def halving(run: Callable[[int], T], batch: int, what: str) -> T:
    """What `run` gives for a batch of this size, halved and tried again while a GPU's memory runs out.

    `what` names the members of a batch, for the line on stderr that says so.

    Raises:
        torch.OutOfMemoryError: a batch of 1 needs too much.
    """
    while True:
        try:
            return run(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        # Out of the handler, whose exception would keep what the failed try had allocated.
        print(
            f"{batch} {what} at a time do not fit into the GPU's memory; going on with {batch // 2}",
            file=sys.stderr,
        )
        batch //= 2
