"""How many canvases, or captions, share a forward pass."""

from __future__ import annotations

import torch

from engine.kv_cache import MOST, token_bytes
from engine.models.showo_config import ShowoConfig

ROWS = 640
"""Canvas rows of a pass for each thread: enough for a good matrix product, few enough for the caches."""


def planned_batch(config: ShowoConfig) -> int:
    """Canvases with guidance, two rows of them each, that a forward pass of this process takes at once.

    More would not be faster, as a canvas is itself many rows, and would need memory in proportion.
    """
    rows = 2 * (config.num_image_tokens + 2)
    return max(1, round(ROWS * torch.get_num_threads() / rows))


def stems_at_once(
    config: ShowoConfig, dtype: str, length: int, longest: int, candidates: int, rows: int
) -> int:
    """Images whose captions grow together: at most `rows` captions, and keys and values of at most MOST GiB.

    `length` tokens of an image are shared by its candidates, which have `longest` tokens of their own.
    """
    of_image = (length + candidates * longest) * token_bytes(config, dtype, config.head_dim)
    return max(1, min(rows // candidates, int(MOST * 2**30 / of_image)))
