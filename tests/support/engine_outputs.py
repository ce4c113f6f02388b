"""What an engine says of random images: the same questions for every backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.checkpoints.weights import load_config
from engine.records import CaptionSettings, ImageTokens
from engine.serving.engine import Engine

KEYS = ("a", "b")
TEXTS = ("two red circle", "blue square and a green circle")


def outputs(checkpoint: Path, started: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """Scores, greedy and sampled captions, and counters; `started` is given the worker first."""
    config = load_config(checkpoint)
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, config.codebook_size, (2, config.num_image_tokens), generator=generator)
    images = [ImageTokens(codes=tuple(row)) for row in codes.tolist()]
    # Three at a time, so that prompts begin while others decode.
    with Engine(checkpoint, max_sequences=3, kv_cache_gib=0.01, sampler="paged") as engine:
        found = engine.server.llm.collective_rpc(started)[0]
        plan = [CaptionSettings(max_tokens=4, temperature=heat) for heat in (0.0, 1.0, 1.0)]
        captions = engine.caption(images, KEYS, 7, plan)
        cached = engine.work.cached_tokens
        again, other = (engine.caption(images[:1], KEYS[:1], seed, plan) for seed in (7, 8))
        work = engine.work
        return {
            "scores": [logp for row in engine.score(images, TEXTS) for logp in row],
            "greedy": [list(row[0].token_ids) for row in captions],
            "logprobs": [logp for row in captions for logp in row[0].logprobs],
            "sampled": _sampled(captions),
            "again": _sampled(again),
            "other": _sampled(other),
            "cached": cached,
            "forward_share": work.forward_seconds / work.seconds,
            "rows": work.decoded_rows,
            "tokens": work.captions.tokens,
            **found,
        }


def _sampled(captions: Any) -> list[list[int]]:
    return [list(one.token_ids) for row in captions for one in row[1:]]
