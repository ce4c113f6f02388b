"""Seeded random work for a checkpoint: images, prompts, questions, caption lengths, preferences.

Every round has work of its own, so that no cache of an earlier round can help.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.speed.model_sizes import filler
from engine.files.atomic import write_parts
from engine.models.showo_config import ShowoConfig
from engine.records import (
    CaptionCandidate,
    CaptionPair,
    CaptionSettings,
    ImageCandidate,
    ImagePair,
    ImageTokens,
    Preference,
    Question,
)

CHOICES = 4
SHORTEST = 8
"""Tokens of the shortest caption."""
WORDS = 64
"""Words that captions and questions are made of; every shape's tokenizer knows them."""


def images(config: ShowoConfig, count: int, seed: int) -> list[ImageTokens]:
    """Images of random codes."""
    drawn = np.random.default_rng(seed).integers(0, config.codebook_size, (count, config.num_image_tokens))
    return [ImageTokens(codes=tuple(row)) for row in drawn.tolist()]


def prompts(count: int, seed: int, room: int = 40) -> list[str]:
    """Captions of 8 to 20 words, or as many as there is room for, as prompts."""
    rng = np.random.default_rng(seed)
    return [_words(rng, int(rng.integers(8, 21)), room) for _ in range(count)]


def questions(count: int, per_image: int, seed: int) -> list[list[Question]]:
    """Questions of 8 words with four choices of one word, some for each of `count` images."""
    rng = np.random.default_rng(seed)
    return [[_question(rng) for _ in range(per_image)] for _ in range(count)]


def ragged_plan(n: int, longest: int, seed: int) -> list[CaptionSettings]:
    """How n captions of an image are sampled: temperature 1, each ending at a length drawn from the seed.

    Lengths come in pairs of one sum, so the first 2k captions are as long as all of them on average.
    """
    rng, shortest = np.random.default_rng(seed), min(SHORTEST, longest)
    short = rng.integers(shortest, longest + 1, (n + 1) // 2).tolist()
    lengths = [length for one in short for length in (one, longest + shortest - one)]
    return [CaptionSettings(max_tokens=length) for length in lengths[:n]]


def preferences(config: ShowoConfig, count: int, longest: int, seed: int) -> list[Preference]:
    """Both pairs of each: random codes, and captions of 8 to `longest` random tokens."""
    rng = np.random.default_rng(seed)
    texts = prompts(count, seed, config.max_text_len - 2)

    def codes() -> tuple[int, ...]:
        return tuple(rng.integers(0, config.codebook_size, config.num_image_tokens).tolist())

    def caption(index: int) -> CaptionCandidate:
        size = int(rng.integers(min(SHORTEST, longest), longest + 1))
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


def write_pairs(path: Path, found: Sequence[Preference]) -> Path:
    """A `pairs.jsonl` of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parts(path, (msgspec.json.encode(one) + b"\n" for one in found))
    return path


def _words(rng: np.random.Generator, count: int, room: int) -> str:
    return " ".join(filler(int(i)) for i in rng.integers(0, WORDS, min(count, room)))


def _question(rng: np.random.Generator) -> Question:
    choices = tuple(filler(int(i)) for i in rng.choice(WORDS, CHOICES, replace=False))
    return Question(question=_words(rng, 8, 8) + "?", choices=choices, answer=choices[0], kind="")
