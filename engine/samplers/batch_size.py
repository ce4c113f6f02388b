"""How many canvases share a forward pass."""

from __future__ import annotations

import torch

from engine.models.showo_config import ShowoConfig

ROWS = 640
"""Canvas rows of a pass for each thread: enough for a good matrix product, few enough for the caches."""


def planned_batch(config: ShowoConfig) -> int:
    """Canvases with guidance, two rows of them each, that a forward pass of this process takes at once.

    More would not be faster, as a canvas is itself many rows, and would need memory in proportion.
    """
    rows = 2 * (config.num_image_tokens + 2)
    return max(1, round(ROWS * torch.get_num_threads() / rows))
