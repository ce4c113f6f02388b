"""A tiny random Show-o checkpoint and synthetic preferences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from engine.checkpoints.weights import save_checkpoint
from engine.files.layout import CLIP_FOLDER
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import CaptionCandidate, CaptionPair, ImageCandidate, ImagePair, Preference
from engine.tokenizers.image import PatchLfq, PatchLfqConfig, save_image_tokenizer
from engine.tokenizers.text import word_tokenizer

WORDS = "a red blue green cube ball cone and two on the left of user give caption for image assistant : ."
TOKENS, BITS = 9, 5


def make_checkpoint(folder: Path, seed: int = 0, clip: bool = False) -> Path:
    text = word_tokenizer([WORDS])
    folder.mkdir(parents=True, exist_ok=True)
    text.save(folder / "tokenizer.json")
    image = PatchLfq(PatchLfqConfig(image_size=24, bits=BITS, width=8))
    save_image_tokenizer(image, folder / "image_tokenizer")
    config = ShowoConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        text_vocab_size=text.size,
        codebook_size=2**BITS,
        num_image_tokens=TOKENS,
        max_text_len=12,
        bos_token_id=text.size - 1,
        w_clip_vit=clip,
        clip_tokens=16,
        clip_size=24,
        system_ids=text.encode("a user and assistant") if clip else (),
    )
    if clip:
        save_tower(folder / CLIP_FOLDER)
    model = Showo(config)
    model.initialise(seed)
    save_checkpoint(model, folder)
    return folder


def save_tower(folder: Path) -> None:
    """A small random CLIP vision tower of 16 patches."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)


def make_preferences(
    count: int = 6, missing_captions: tuple[int, ...] = (), missing_images: tuple[int, ...] = ()
) -> list[Preference]:
    rng = np.random.default_rng(5)

    def caption(index: int) -> CaptionCandidate:
        ids = tuple(rng.integers(1, 20, rng.integers(3, 8)).tolist())
        return CaptionCandidate(index=index, text="", token_ids=ids, seed=index, score=1.0 - index)

    def image(index: int) -> ImageCandidate:
        codes = tuple(rng.integers(0, 2**BITS, TOKENS).tolist())
        return ImageCandidate(index=index, codes=codes, seed=index, answers=(), score=1.0 - index)

    colours, shapes = ("red", "blue", "green"), ("cube", "ball", "cone")
    return [
        Preference(
            id=f"item-{i}",
            caption=f"a {colours[i % 3]} {shapes[i // 3 % 3]}" + " and two cubes" * (i % 2),
            image_codes=tuple(rng.integers(0, 2**BITS, TOKENS).tolist()),
            captions=None
            if i in missing_captions
            else CaptionPair(win=caption(0), lose=caption(1), win_round=0, lose_round=0),
            images=None
            if i in missing_images
            else ImagePair(win=image(0), lose=image(1), win_round=0, lose_round=0),
        )
        for i in range(count)
    ]


def write_preferences(path: Path, preferences: list[Preference]) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in preferences))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def clip_checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "clip-checkpoint", clip=True)


@pytest.fixture
def other_checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "other", seed=1)


@pytest.fixture
def preferences() -> list[Preference]:
    return make_preferences(6, missing_captions=(1,), missing_images=(4,))


@pytest.fixture
def preferences_like() -> Callable[..., list[Preference]]:
    return make_preferences


@pytest.fixture
def pairs_file(tmp_path: Path, preferences: list[Preference]) -> Path:
    return write_preferences(tmp_path / "pairs.jsonl", preferences)


@pytest.fixture
def write_pairs() -> Callable[[Path, list[Preference]], Path]:
    return write_preferences


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden arrays."""
    return Path(__file__).parents[1] / "golden"
