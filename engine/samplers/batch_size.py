"""How many canvases, or captions, share a forward pass."""

from __future__ import annotations

from engine.models.showo_config import ShowoConfig

ROWS = 640
"""Canvas rows of a pass for each thread: enough for a good matrix product, few enough for the caches."""


def planned_batch(config: ShowoConfig, threads: int) -> int:
    """Canvases with guidance, two rows of them each, that a forward pass takes at once.

    More would not be faster, as a canvas is itself many rows, and would need memory in proportion.
    """
    rows = 2 * (config.num_image_tokens + 2)
    return max(1, round(ROWS * threads / rows))


def stems_at_once(image_bytes: int, candidates: int, rows: int, gib: float) -> int:
    """Images whose captions grow together: at most `rows` captions, and `gib` of keys and values.

    `image_bytes` are those of one image with all its candidates.
    """
    return max(1, min(rows // candidates, int(gib * 2**30 / image_bytes)))
