"""Random preferences for a checkpoint: their content does not change what training costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.speed import workload
from engine.files.atomic import write_parts
from engine.models.showo_config import ShowoConfig
from engine.records import CaptionCandidate, CaptionPair, ImageCandidate, ImagePair, Preference


def preferences(config: ShowoConfig, count: int, longest: int, seed: int) -> list[Preference]:
    """Both pairs of each: random codes, and captions of 8 to `longest` random tokens."""
    rng = np.random.default_rng(seed)
    texts = workload.prompts(count, seed, config.max_text_len - 2)

    def codes() -> tuple[int, ...]:
        return tuple(rng.integers(0, config.codebook_size, config.num_image_tokens).tolist())

    def caption(index: int) -> CaptionCandidate:
        size = int(rng.integers(min(workload.SHORTEST, longest), longest + 1))
        ids = tuple(rng.integers(0, config.vocabulary.text_size - 1, size).tolist())
        return CaptionCandidate(index=index, text="", token_ids=ids, seed=index, score=1.0 - index)

    def image(index: int) -> ImageCandidate:
        return ImageCandidate(index=index, codes=codes(), seed=index, answers=(), score=1.0 - index)

    return [
        Preference(
            id=f"pair-{number:06d}",
            caption=text,
            image_codes=codes(),
            captions=CaptionPair(win=caption(0), lose=caption(1), win_round=1, lose_round=1),
            images=ImagePair(win=image(0), lose=image(1), win_round=1, lose_round=1),
        )
        for number, text in enumerate(texts)
    ]


def write(path: Path, found: Sequence[Preference]) -> Path:
    """A `pairs.jsonl` of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parts(path, (msgspec.json.encode(one) + b"\n" for one in found))
    return path
