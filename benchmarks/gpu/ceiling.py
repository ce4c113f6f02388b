"""What image generation needs at least, and what a device can do at most.

Legend: T text tokens, N image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.speed.bench import in_turns
from engine.models.showo_config import ShowoConfig
from engine.records import ImageSettings
from engine.samplers.mask_predict_rule import at_most, wanted_masked


def square_gflops(dtype: torch.dtype, device: torch.device | str, side: int) -> float:
    """GFLOP/s of the best of three large square products."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2e-9 * side**3 / min(in_turns({"": lambda _: a @ b}, 3)[""])


def weight_flops(config: ShowoConfig) -> int:
    """FLOPs of one token in all layers' matrix products."""
    width, inner = config.hidden_size, config.intermediate_size
    return 2 * config.num_hidden_layers * (4 * width * width + 2 * width * inner)


def attention_flops(config: ShowoConfig, queries: int, seen: float) -> float:
    """FLOPs of `queries` that each see `seen` tokens, in all layers: scores and weighted values."""
    return 4.0 * config.hidden_size * config.num_hidden_layers * queries * seen


def masked_counts(config: ShowoConfig, settings: ImageSettings) -> list[int]:
    """Positions of one image that each step finds masked."""
    tokens = config.num_image_tokens
    found = [tokens]
    for step in range(settings.steps - 1):
        left = at_most(
            torch.tensor([found[-1]]), wanted_masked(tokens, step, settings.steps, settings.schedule)
        )
        found.append(int(left))
    return found


def image_gflop(config: ShowoConfig, texts: Sequence[int], n: int, settings: ImageSettings) -> float:
    """GFLOP of n images of every prompt, whose texts have so many tokens; no padding.

    A text's keys and values, and the first step behind it, whose image is the same for all candidates, are
    needed once; the image head at masked positions alone.
    """
    rows, width = config.num_image_tokens + 2, config.hidden_size
    unguided = [len(config.vocabulary.t2i_text((), config.max_text_len))] if settings.guidance else []
    first, *later = masked_counts(config, settings)
    flops = 0.0
    for text, images in (*((text, n) for text in texts), *((text, n * len(texts)) for text in unguided)):
        flops += text * weight_flops(config) + attention_flops(config, text, (text + 1) / 2)
        step = rows * weight_flops(config) + attention_flops(config, rows, text + rows)
        flops += (1 + images * len(later)) * step
        flops += 2 * width * config.codebook_size * (first + images * sum(later))
    return 1e-9 * flops
