"""Preferences of the embedded world, and the embedded model's tokenizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.exchange.tokenizers import Tokenizers
from curate.shapes import world
from engine.files.layout import EMBEDDED_MODEL
from engine.records import CaptionCandidate, CaptionPair, ImageCandidate, ImagePair, Preference


@pytest.fixture(scope="session")
def tokenizers() -> Tokenizers:
    return Tokenizers(EMBEDDED_MODEL)


@pytest.fixture(scope="session")
def preferences(tokenizers: Tokenizers) -> list[Preference]:
    """Five items: both pairs, captions alone, images alone, none, both."""
    items = [world.item("train", 0, index)[0] for index in range(10)]
    codes = [
        tokenizers.image_tokens(Image.fromarray(np.array(world.image_of(item.id)))).codes for item in items
    ]

    def caption(index: int, text: str) -> CaptionCandidate:
        ids = tokenizers.token_ids(text)
        return CaptionCandidate(index=index, text=text, token_ids=ids, seed=index, score=0.9 - index / 4)

    def image(index: int, place: int) -> ImageCandidate:
        return ImageCandidate(
            index=index, codes=codes[place], seed=index, answers=("yes", "no"), score=0.8 - index / 4
        )

    def preference(place: int, has_captions: bool, has_images: bool) -> Preference:
        captions = CaptionPair(
            win=caption(1, "a red circle"), lose=caption(2, "two blue squares"), win_round=1, lose_round=1
        )
        images = ImagePair(win=image(0, 2 * place), lose=image(3, 2 * place + 1), win_round=2, lose_round=1)
        return Preference(
            id=items[place].id,
            caption=items[place].caption,
            image_codes=codes[place],
            captions=captions if has_captions else None,
            images=images if has_images else None,
            caption_reason="" if has_captions else "best and worst score the same",
            image_reason="" if has_images else "best image does not exceed the threshold",
        )

    sides = [(True, True), (True, False), (False, True), (False, False), (True, True)]
    return [preference(place, *each) for place, each in enumerate(sides)]


@pytest.fixture
def curation(tmp_path: Path) -> Path:
    """A round's folder without CLIP features."""
    return tmp_path / "round-1" / "curate"
