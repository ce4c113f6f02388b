"""How many images share a forward pass of the image sampler.

Legend: R rows of a pass, D hidden.
"""

from __future__ import annotations

from engine.models.showo_config import ShowoConfig

ROWS = 640
"""Rows of a pass for each thread: enough for a good matrix product, few enough for the caches."""
GPU_ROWS = 8192
"""Rows of a pass on a GPU: 16 images of 256 codes with guidance. Not measured."""
GPU_WORK = 2**31
"""A layer takes about 24 R D^2 FLOPs, and its launches a tenth of a millisecond: below this R D^2 they take
longer. Not measured."""


def planned_batch(config: ShowoConfig, threads: int) -> int:
    """Images with guidance, each with and without its text, that a forward pass takes at once."""
    # More would not be faster, as an image is itself many rows, and would need memory in proportion.
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
    """Rows of an image between soi and eoi, with and without its text."""
    return 2 * (config.num_image_tokens + 2)
