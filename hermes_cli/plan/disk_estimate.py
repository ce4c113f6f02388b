"""What a round's stages will take on disk, from counts and from records made up of the data's own items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.records import (
    Candidates,
    CaptionCandidate,
    CaptionPair,
    ImageCandidate,
    ImagePair,
    Item,
    Preference,
    Provenance,
)

if TYPE_CHECKING:
    from curate.config import CurateConfig
    from engine.models.showo_config import ShowoConfig
    from engine.tokenizers.text import TextTokenizer
    from train.config import TrainConfig

SEED = 2**62
SCORE = 0.6666666666666666
"""As long as numbers in JSON are."""
STORE_FILES = 4_700
"""Bytes of a reference store's metadata, whatever the number of pairs."""
STEP_LINES = 1_800
"""Bytes of a training step in metrics.jsonl and in the event file."""
CURVES = 130_000
"""Bytes of training.png."""
SHEET_ROWS, TILE_BYTES = 12, 5_400
"""Rows of a candidate sheet, and bytes of a picture in it with its share of the text."""
PICTURED = 64
"""Items whose pictures are saved, at about a byte a pixel as PNG."""


def curation_bytes(
    items: int,
    sample: Sequence[Item],
    text: TextTokenizer,
    model: ShowoConfig,
    config: CurateConfig,
    pixels: int,
) -> int:
    """Candidates, pairs, sheet and pictures of so many items like those of the sample.

    `pixels` is the side of an image.
    """
    if not sample:
        return 0
    rows = [_row_bytes(item, text, model, config) for item in sample]
    pictures = TILE_BYTES * (config.n + 1) * min(items, SHEET_ROWS) + 3 * pixels**2 * min(items, PICTURED)
    features = 4 * model.clip_tokens * model.clip_size * items if model.w_clip_vit else 0
    return round(items * sum(rows) / len(rows)) + pictures + features


def _row_bytes(item: Item, text: TextTokenizer, model: ShowoConfig, config: CurateConfig) -> int:
    """Bytes of one item's candidates and of its preference; captions are as long as the item's own."""
    from curate.config import caption_plan

    codes = tuple(place * 37 % model.codebook_size for place in range(model.num_image_tokens))
    tokens = tuple(text.encode(item.caption))[: config.caption.max_tokens]
    answers = tuple(question.answer for question in item.questions)
    captions = tuple(
        CaptionCandidate(index=i, text=item.caption, token_ids=tokens, seed=SEED, score=SCORE)
        for i in range(len(caption_plan(config)))
    )
    images = tuple(
        ImageCandidate(index=i, codes=codes, seed=SEED, answers=answers, score=SCORE, likelihood=-SCORE)
        for i in range(config.n)
    )
    candidates = Candidates(
        id=item.id, round=1, caption=item.caption, category=item.category, objects=item.objects,
        questions=item.questions, image_codes=codes, captions=captions, images=images,
    )  # fmt: skip
    preference = Preference(
        id=item.id,
        caption=item.caption,
        image_codes=codes,
        captions=CaptionPair(win=captions[0], lose=captions[1], win_round=1, lose_round=1),
        images=ImagePair(win=images[0], lose=images[1], win_round=1, lose_round=1),
        provenance=Provenance(
            model="0" * 16, precision="float32", origin="0" * 24, seed=0, questions=item.questions,
            caption_scores=(SCORE,) * len(captions), caption_seeds=(SEED,) * len(captions),
            image_scores=(SCORE,) * len(images), image_likelihoods=(-SCORE,) * len(images),
            image_seeds=(SEED,) * len(images), image_answers=(answers,) * len(images),
        ),
    )  # fmt: skip
    return len(msgspec.json.encode(candidates)) + len(msgspec.json.encode(preference)) + 32


def reference_bytes(pairs: int, config: TrainConfig) -> int:
    """A store of so many preferences: two log-probs, two more and a seed for each mask, and an id."""
    return pairs * (8 + 16 * config.mask_draws + 4) + STORE_FILES


def checkpoint_bytes(checkpoint: Path, parameters: int) -> int:
    """A round's weights, in float32, with the tokenizers that go along."""
    from engine.files.layout import CLIP_FOLDER
    from hermes_cli.run.progress import size_on_disk

    folders = ("image_tokenizer", CLIP_FOLDER)
    companions = sum(size_on_disk(checkpoint / name) for name in folders)
    return 4 * parameters + companions + (checkpoint / "tokenizer.json").stat().st_size


def training_bytes(weights: int, config: TrainConfig) -> int:
    """What a training leaves: weights, the best of them where those are kept, metrics and their picture."""
    return weights * (2 if config.keep_best else 1) + STEP_LINES * config.steps + CURVES


def state_bytes(trained: int, config: TrainConfig) -> int:
    """What a training holds beside that while it runs: `keep` resumable states, and the one being written."""
    saves = (config.steps - 1) // config.save_every if config.saves_states else 0
    return 12 * trained * min(config.keep + 1, saves)


def evaluation_bytes(items: int, pixels: int) -> int:
    """The gap with each item's answers, and a gallery of six pairs of pictures of at most 256 pixels."""
    return 8_000 + 85 * items + 6 * min(pixels, 256) ** 2
