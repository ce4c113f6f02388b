"""Pretraining that goes on from a checkpoint, and captions with words that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.shapes.captions import neighbours
from curate.shapes.examples import words
from engine.checkpoints.weights import fingerprint, load_config, load_model
from engine.errors import ConfigError
from engine.files.layout import EMBEDDED_MODEL
from hermes_cli.commands.pretrain import (
    PretrainPlan,
    batches_of,
    load_plan,
    misheard,
    neighbour_ids,
    start_of,
    train_from_scratch,
)
from train.pretraining.pretrain import PretrainPhase, PretrainSettings
from train.pretraining.pretrain_batch import PretrainExample

CARELESS = Path(__file__).parents[2] / "benchmarks/experiment/careless.toml"


def test_a_neighbour_is_a_known_word_of_the_same_kind_and_never_the_word_itself() -> None:
    known = set(" ".join(words()).replace(",", " ").split())
    found = neighbours()
    assert found.keys() <= known
    assert sorted(found) == sorted(found.values())
    assert all(word != other for word, other in found.items())
    assert (found["red"], found["black"], found["four"], found["crosses"]) == (
        "green",
        "red",
        "two",
        "circles",
    )


@given(st.lists(st.integers(0, 9), max_size=30), st.floats(0, 1), st.integers(0, 2**32))
def test_only_words_with_a_neighbour_are_misheard(caption: list[int], share: float, seed: int) -> None:
    heard = misheard(caption, share, {1: 2, 2: 1}, np.random.default_rng(seed))
    assert len(heard) == len(caption)
    for one, other in zip(caption, heard, strict=True):
        assert other == one or {one, other} == {1, 2}
    if share in (0.0, 1.0):
        wanted = [{1: 2, 2: 1}.get(one, one) if share else one for one in caption]
        assert list(heard) == wanted


def test_prompts_of_images_have_the_noise_and_texts_do_not() -> None:
    found = [PretrainExample(codes=(0,), caption=(1, 5, 1), texts=(((7,), (1, 5, 1)),)) for _ in range(64)]
    phase = PretrainPhase(
        steps=2, images=64, texts=64, learning_rate=1e-3, warmup=0, span=2, caption_noise=0.4
    )
    batch = batches_of(found, PretrainSettings(phases=(phase,)), {1: 2})
    generated, told = batch(0)
    wrong = [one == 2 for example in generated for one in (example.caption[0], example.caption[2])]
    assert 0.2 < np.mean(wrong) < 0.6
    assert {example.caption[1] for example in generated} == {5}
    assert {example.texts for example in told} == {found[0].texts}
    assert batch(0) == (generated, told)
    assert batch(1)[0] != generated


def test_a_plan_goes_on_from_the_embedded_model_and_resumes(tmp_path: Path) -> None:
    plan = load_plan(CARELESS, ["lessons=64", "model.save_every=1"])
    phase = plan.model.phases[0]
    assert phase.caption_noise == 0.4
    short = PretrainSettings(
        phases=(
            PretrainPhase(
                steps=2, images=8, texts=2, learning_rate=1e-3, warmup=0, span=2, caption_noise=0.4
            ),
        ),
        save_every=1,
    )
    plan = PretrainPlan(start=plan.start, lessons=64, model=short)
    whole = train_from_scratch(plan, tmp_path / "whole", lambda line: None)
    assert load_config(whole) == load_config(EMBEDDED_MODEL)
    for name in ("tokenizer.json", "image_tokenizer/model.safetensors"):
        assert (whole / name).read_bytes() == (EMBEDDED_MODEL / name).read_bytes()
    old, new = (dict(load_model(folder).named_parameters()) for folder in (EMBEDDED_MODEL, whole))
    moved = max(float((old[name] - new[name]).abs().max()) for name in old)
    assert 0 < moved < 0.01

    def stop(line: str) -> None:
        if line.startswith("step 1 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_from_scratch(plan, tmp_path / "torn", stop)
    resumed = train_from_scratch(plan, tmp_path / "torn", lambda line: None)
    assert fingerprint(resumed) == fingerprint(whole)


def test_the_embedded_words_have_their_neighbours_as_single_ids() -> None:
    from engine.tokenizers.text import TextTokenizer

    text = TextTokenizer.load(EMBEDDED_MODEL / "tokenizer.json")
    assert len(neighbour_ids(text)) == len(neighbours())
    assert all(len(text.encode(word)) == 1 for word in neighbours())


def test_a_start_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint lies there"):
        start_of(PretrainPlan(start=str(tmp_path)))
    assert start_of(PretrainPlan()) is None
