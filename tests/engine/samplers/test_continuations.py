"""Captions sampled from one prefix: the training model's numbers, vLLM's greedy tokens, seeds, settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.checkpoints.weights import load_model
from engine.errors import EngineError
from engine.models.masks import feature_mask, mmu_mask
from engine.models.showo import Showo
from engine.records import CaptionSettings, ImageTokens, SampledCaption
from engine.samplers.continuations import Prefix, sample
from engine.samplers.setting import sampler_for
from engine.samplers.token_rule import TokenRules, uniforms

pytest.importorskip("vllm")

if TYPE_CHECKING:
    from engine.serving.engine import Engine

TOLERANCE = 1e-5
GREEDY = CaptionSettings(temperature=0.0, max_tokens=20)
RAGGED = [
    CaptionSettings(max_tokens=20),
    CaptionSettings(max_tokens=3),
    CaptionSettings(temperature=2.0, top_k=5, max_tokens=20),
    CaptionSettings(temperature=0.7, top_p=0.8, max_tokens=11),
    GREEDY,
]


def keys(count: int) -> list[str]:
    return [f"item-{i}" for i in range(count)]


def tokens(captions: list[list[SampledCaption]]) -> list[list[tuple[int, ...]]]:
    return [[one.token_ids for one in row] for row in captions]


def dense(engine: Engine, model: Showo, image: ImageTokens, caption: SampledCaption) -> list[float]:
    """Log-probs of a caption's tokens by the training model, each with everything before it."""
    config, words = model.config, model.config.vocabulary
    prompt = engine.text.encode(config.caption_prompt)
    tail = [*caption.token_ids, *([words.eos] if caption.ended else [])]
    features = None
    if config.w_clip_vit:
        shape = (1, config.clip_tokens, config.clip_size)
        features = torch.from_numpy(np.frombuffer(image.features, "<f4").reshape(shape).copy())
        start = words.feature_prompt(config.system_ids, config.clip_tokens, prompt)
        mask = feature_mask(len(start) + len(tail), config.image_start, config.clip_tokens)
    else:
        start = words.mmu_prompt(image.codes, prompt)
        mask = mmu_mask(torch.tensor([[*start, *tail]]), words.eoi)
    with torch.no_grad():
        hidden = model(torch.tensor([[*start, *tail]]), mask, features=features)[0, len(start) - 1 : -1]
        logp = model.head(hidden).log_softmax(-1)
    return logp.gather(-1, torch.tensor(tail)[:, None])[:, 0].tolist()


def check_logprobs(engine: Engine, model: Showo, images: list[ImageTokens]) -> None:
    worst = 0.0
    captions = engine.caption(images, keys(len(images)), 5, RAGGED)
    for image, row in zip(images, captions, strict=True):
        assert all(len(one.logprobs) <= rule.max_tokens for one, rule in zip(row, RAGGED, strict=True))
        for caption in row:
            wanted = dense(engine, model, image, caption)
            worst = max(worst, *(abs(a - b) for a, b in zip(caption.logprobs, wanted, strict=True)))
    # What is cut has no end, so no log-prob of one either.
    assert {one.ended for row in captions for one in row} == {True, False}
    print(f"largest difference of a log-prob: {worst:.1e}")
    assert worst < TOLERANCE


def test_log_probs_are_the_training_models(engine: Engine, model: Showo, images: list[ImageTokens]) -> None:
    check_logprobs(engine, model, images)


@pytest.fixture(scope="module")
def clip_engine(clip_checkpoints: tuple[Path, Path]) -> Iterator[Engine]:
    from engine.serving.engine import Engine

    with Engine(clip_checkpoints[0], kv_cache_gib=0.125) as served:
        yield served


def test_log_probs_with_clip_features_are_the_training_models(
    clip_engine: Engine, clip_checkpoints: tuple[Path, Path]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), dtype=np.uint8)
    check_logprobs(clip_engine, load_model(clip_checkpoints[0]), clip_engine.encode(pixels))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the branched sampler is for CPUs")
def test_greedy_captions_are_those_of_vllms_own_decoding(
    engine: Engine, paged_engine: Engine, images: list[ImageTokens]
) -> None:
    assert (engine.sampler, paged_engine.sampler) == ("branched", "paged")
    mine, theirs = (one.caption(images, keys(8), 0, [GREEDY]) for one in (engine, paged_engine))
    assert tokens(mine) == tokens(theirs)
    assert [row[0].ended for row in mine] == [row[0].ended for row in theirs]
    assert len({row[0].token_ids for row in mine}) > 1
    for (one,), (other,) in zip(mine, theirs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=TOLERANCE)


def test_a_candidate_is_the_same_alone_and_in_company(engine: Engine, images: list[ImageTokens]) -> None:
    captions = engine.caption(images, keys(8), 9, RAGGED)
    together = tokens(captions)
    (alone,) = engine.caption(images[:1], keys(1), 9, RAGGED)
    assert alone == captions[0], "to the last bit of a log-prob"
    for image, key, row in zip(images, keys(8), together, strict=True):
        assert tokens(engine.caption([image], [key], 9, RAGGED)) == [row]
        assert tokens(engine.caption([image], [key], 9, RAGGED[:2])) == [row[:2]]
    assert tokens(engine.caption(images[::-1], keys(8)[::-1], 9, RAGGED)) == together[::-1]
    assert tokens(engine.caption(images, keys(8), 10, RAGGED)) != together


def test_small_batches_give_what_large_ones_give(model: Showo, images: list[ImageTokens]) -> None:
    prefixes = [Prefix(model.config.vocabulary.mmu_prompt(image.codes, [1, 2])) for image in images]
    seeds = [[10 * i + j for j in range(len(RAGGED))] for i in range(len(images))]
    large, small = (sample(model, prefixes, RAGGED, seeds, batch) for batch in (8, 3))
    for one, other in zip(small, large, strict=True):
        assert [sampled.ids for sampled in one] == [sampled.ids for sampled in other]


def test_a_penalty_keeps_a_greedy_caption_from_repeating(
    engine: Engine, paged_engine: Engine, images: list[ImageTokens]
) -> None:
    penalised = msgspec.structs.replace(GREEDY, repetition_penalty=50.0)
    mine, theirs = (one.caption(images, keys(8), 9, [penalised]) for one in (engine, paged_engine))
    assert tokens(mine) == tokens(theirs)
    assert all(len(set(one.token_ids)) == len(one.token_ids) for (one,) in mine)
    (plain,) = zip(*tokens(engine.caption(images, keys(8), 9, [GREEDY])), strict=True)
    assert any(len(set(ids)) < len(ids) for ids in plain)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": -1.0}, "temperature is -1.0, it must be 0 or more"),
        ({"top_p": 0.0, "top_k": -2}, "top_k is -2, it must be .* top_p is 0.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 90}, "exceed the model's 96 positions"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(
    engine: Engine, paged_engine: Engine, images: list[ImageTokens], settings: dict[str, float], words: str
) -> None:
    for served in (engine, paged_engine):
        with pytest.raises(EngineError, match=words):
            served.caption(images[:1], ["x"], 0, [CaptionSettings(**settings)])


def test_the_device_decides_who_samples_where_nobody_says() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert [sampler_for("auto", one) for one in (cpu, gpu)] == ["branched", "paged"]
    assert [sampler_for("paged", one) for one in (cpu, gpu)] == ["paged", "paged"]
    assert sampler_for("branched", cpu) == "branched"
    with pytest.raises(EngineError, match="branched, which is for CPUs; take auto or paged"):
        sampler_for("branched", gpu)


def test_a_sampler_that_nobody_knows_is_refused(checkpoints: tuple[Path, Path]) -> None:
    from engine.serving.engine import Engine

    with pytest.raises(EngineError, match="sampler is 'beam'; take auto, branched or paged"):
        Engine(checkpoints[0], sampler="beam")


@given(st.integers(0, 2**63), st.integers(1, 50), st.integers(1, 50))
def test_more_uniform_numbers_begin_with_the_same(seed: int, few: int, more: int) -> None:
    count = min(few, more)
    assert torch.equal(uniforms(seed, few)[:count], uniforms(seed, more)[:count])


def choices(settings: CaptionSettings, logits: torch.Tensor, draws: int = 40_000) -> torch.Tensor:
    """Shares of the tokens that a rule chooses."""
    rules = TokenRules([settings] * draws)
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(0))
    found = rules.choose(logits.expand(draws, -1), torch.arange(draws), uniform, None)
    return found.bincount(minlength=len(logits)) / draws


def test_choices_follow_the_cut_distribution() -> None:
    logits = torch.tensor([2.0, 1.5, 0.0, -1.0, 1.0])
    for settings, kept in (
        (CaptionSettings(), [0, 1, 2, 3, 4]),
        (CaptionSettings(temperature=0.5), [0, 1, 2, 3, 4]),
        (CaptionSettings(top_k=2), [0, 1]),
        (CaptionSettings(top_k=50), [0, 1, 2, 3, 4]),
        # 0.46, 0.28 and 0.17 first add up to more than 0.8.
        (CaptionSettings(top_p=0.8), [0, 1, 4]),
        (CaptionSettings(top_p=0.01), [0]),
        (CaptionSettings(temperature=0.0), [0]),
        # A quotient by it would be infinite.
        (CaptionSettings(temperature=1e-38), [0]),
    ):
        cut = torch.full((5,), -torch.inf)
        cut[kept] = logits[kept] / (settings.temperature or 1.0)
        assert (choices(settings, logits) - cut.softmax(-1)).abs().max() < 0.01


def test_rows_of_one_call_keep_to_their_own_settings() -> None:
    rules = TokenRules([GREEDY, CaptionSettings(top_k=1), CaptionSettings(top_p=1e-6), CaptionSettings()])
    logits = torch.tensor([[0.0, 3.0, 1.0]]).expand(4, -1)
    found = rules.choose(logits, torch.arange(4), torch.full((4,), 0.9999), None)
    assert found.tolist() == [1, 1, 1, 2]
