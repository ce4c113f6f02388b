"""A small random Show-o checkpoint, the engine that serves it, and the place of the golden files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_showo import WORDS, clip_model, randomised

from engine.checkpoints.weights import load_config, load_model, save_checkpoint
from engine.files.layout import CLIP_FOLDER
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import ImageTokens, Question
from engine.tokenizers.image import PatchLfq, PatchLfqConfig, save_image_tokenizer
from engine.tokenizers.text import TextTokenizer, word_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden arrays."""
    return GOLDEN


def small_config(text: TextTokenizer, **more: Any) -> ShowoConfig:
    """The sizes of all small checkpoints here."""
    return ShowoConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=96,
        text_vocab_size=text.size,
        codebook_size=64,
        num_image_tokens=36,
        max_text_len=8,
        caption_prompt="caption:",
        vqa_prompt="{question}",
        bos_token_id=text.size - 1,
        **more,
    )


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints of one configuration with different weights and the same tokenizers."""
    root = tmp_path_factory.mktemp("checkpoints")
    text = word_tokenizer([WORDS])
    config = small_config(text)
    companions = root / "companions"
    torch.manual_seed(0)
    save_image_tokenizer(PatchLfq(PatchLfqConfig(bits=6, width=8)), companions / "image_tokenizer")
    text.save(companions / "tokenizer.json")
    for seed in (1, 2):
        save_checkpoint(randomised(Showo(config), seed), root / str(seed), companions)
    return root / "1", root / "2"


@pytest.fixture(scope="session")
def model(checkpoints: tuple[Path, Path]) -> Showo:
    """The training module of the first checkpoint."""
    return load_model(checkpoints[0])


@pytest.fixture(scope="session")
def engine(checkpoints: tuple[Path, Path]) -> Iterator[object]:
    """The first checkpoint served by vLLM; a test that swaps must swap back."""
    pytest.importorskip("vllm")
    from engine.serving.engine import Engine

    with Engine(checkpoints[0], kv_cache_gib=0.125) as served:
        yield served


@pytest.fixture(scope="session")
def paged_engine(checkpoints: tuple[Path, Path]) -> Iterator[object]:
    """The same with vLLM's own decoding of captions and answers."""
    pytest.importorskip("vllm")
    from engine.serving.engine import Engine

    with Engine(checkpoints[0], kv_cache_gib=0.125, sampler="paged") as served:
        yield served


@pytest.fixture(scope="session")
def images() -> list[ImageTokens]:
    """Eight random images of the small model."""
    generator = torch.Generator().manual_seed(3)
    return [
        ImageTokens(codes=tuple(row)) for row in torch.randint(0, 64, (8, 36), generator=generator).tolist()
    ]


@pytest.fixture(scope="session")
def clip_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints of the variant that understands CLIP features; only their weights differ."""
    root = tmp_path_factory.mktemp("clip-checkpoints")
    text = word_tokenizer([WORDS])
    seen = text.encode("how many red green blue circle?")
    config = small_config(text, w_clip_vit=True, clip_tokens=25, clip_size=24, system_ids=seen)
    companions = root / "companions"
    torch.manual_seed(0)
    save_image_tokenizer(PatchLfq(PatchLfqConfig(bits=6, width=8)), companions / "image_tokenizer")
    text.save(companions / "tokenizer.json")
    clip_model(5).save_pretrained(companions / CLIP_FOLDER)
    for seed in (1, 2):
        save_checkpoint(randomised(Showo(config), seed), root / str(seed), companions)
    return root / "1", root / "2"


@pytest.fixture(scope="session")
def long_clip_checkpoint(
    clip_checkpoints: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small checkpoint with the lengths of the release: 576 features of 336 pixels, 28 ids before them."""
    folder = tmp_path_factory.mktemp("long-clip")
    config = load_config(clip_checkpoints[0])
    config.max_position_embeddings, config.clip_tokens = 768, 576
    config.system_ids = [1 + i % 17 for i in range(28)]
    save_checkpoint(randomised(Showo(config), 3), folder, clip_checkpoints[0])
    clip_model(6, image_size=336, patch_size=14).save_pretrained(folder / CLIP_FOLDER)
    return folder


@pytest.fixture(scope="session")
def ask() -> Callable[..., Question]:
    """Makes a question from its text and choices; which one is right does not matter here."""

    def make(question: str, *choices: str) -> Question:
        return Question(question=question, choices=choices, answer=choices[0] if choices else "", kind="")

    return make
