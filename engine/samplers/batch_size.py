"""How many canvases, captions or answers share a forward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from engine.kv_cache import token_bytes
from engine.models.showo_config import ShowoConfig

ROWS = 640
"""Canvas rows of a pass for each thread: enough for a good matrix product, few enough for the caches."""


def planned_batch(config: ShowoConfig, threads: int) -> int:
    """Canvases with guidance, two rows of them each, that a forward pass takes at once.

    More would not be faster, as a canvas is itself many rows, and would need memory in proportion.
    """
    rows = 2 * (config.num_image_tokens + 2)
    return max(1, round(ROWS * threads / rows))


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


def halving(run: Callable[[int], T], batch: int) -> T:
    """What `run` gives for a batch of this size, halved and tried again while a GPU's memory runs out.

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
        batch //= 2
        warnings.warn(f"the GPU's memory ran out; going on with batches of {batch}", stacklevel=2)
