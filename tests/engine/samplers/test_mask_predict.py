"""The mask-predict sampler against the official code's stored runs and against a plain dense loop."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.parity.folder import Golden
from engine.errors import EngineError
from engine.models.masks import t2i_mask
from engine.models.showo import Showo
from engine.records import ImageSettings
from engine.samplers.mask_predict import generate, randoms
from engine.samplers.mask_predict_rule import (
    check_schedule,
    guide,
    gumbel,
    left_masked,
    mask_again,
    masked_share,
    temperatures,
)
from engine.samplers.masked_images import MaskedImages, StaticMaskedImages, text_prefixes
from engine.samplers.token_rule import SMALLEST, draw

CASES = [("case4a_gen_g0.npz", 0.0), ("case4b_gen_g3.npz", 3.0)]


@pytest.fixture(scope="module")
def official(golden: Path) -> Showo:
    """The golden model."""
    return Golden(golden).model("weights")


@pytest.mark.parametrize(("file", "guidance"), CASES)
def test_every_step_of_the_official_run_follows_the_rule(golden: Path, file: str, guidance: float) -> None:
    run = {name: torch.from_numpy(array) for name, array in np.load(golden / file).items()}
    steps, _, tokens = run["draws"].shape
    ours = temperatures(1.0, steps)
    assert ours == pytest.approx(run["temperature"].tolist(), abs=1e-12)
    for step in range(steps):
        unknown = run["unknown_before_step"][step]
        logp = run["logits"][step].log_softmax(-1).gather(-1, run["draws"][step][..., None])[..., 0]
        left = left_masked(unknown.sum(-1), tokens, step, steps)
        masked = mask_again(logp, unknown, run["gumbel"][step], ours[step], left)
        assert left.tolist() == run["mask_len"][step, :, 0].long().tolist()
        assert torch.equal(masked, run["masking"][step])
    known = run["step_input_ids"][-1][: len(unknown), -tokens - 1 : -1] - 210
    assert torch.equal(torch.where(unknown, run["draws"][-1], known), run["final_ids"])


@pytest.mark.parametrize(("file", "guidance"), CASES)
def test_a_masked_image_behind_a_stored_prefix_has_the_official_logits(
    golden: Path, official: Showo, file: str, guidance: float
) -> None:
    run = {name: torch.from_numpy(array) for name, array in np.load(golden / file).items()}
    prompts = [run["prompt_ids"], *([run["uncond_prompt_ids"]] if guidance else [])]
    texts = [[i for i in row[:13].tolist() if i != 200][2:-1] for prompt in prompts for row in prompt]
    with torch.no_grad():
        images = MaskedImages(official, text_prefixes(official, texts))
        for step, unknown in enumerate(run["unknown_before_step"]):
            ids = run["step_input_ids"][step][: len(unknown), -17:-1]
            codes = torch.where(ids == 274, -1, ids - 210)
            logits = images.logits(codes, guidance)
            assert (logits - run["logits"][step][unknown]).abs().max() < 2e-5


@pytest.mark.parametrize(("file", "guidance"), CASES)
def test_masked_images_of_the_form_for_gpus_have_the_official_logits(
    golden: Path, official: Showo, file: str, guidance: float
) -> None:
    run = {name: torch.from_numpy(array) for name, array in np.load(golden / file).items()}
    texts = [[i for i in row[:13].tolist() if i != 200][2:-1] for row in run["prompt_ids"]]
    with torch.no_grad():
        empty = text_prefixes(official, [()]) if guidance else None
        images = StaticMaskedImages(official, len(texts), text_prefixes(official, texts), empty, masked=True)
        for step, logits in enumerate(run["logits"]):
            ids = run["step_input_ids"][step][: len(texts), -17:-1]
            codes = torch.where(ids == 274, -1, ids - 210)
            found = images.logits(codes, guidance)
            assert (found.view_as(logits) - logits).abs().max() < 2e-5


def dense_loop(model: Showo, text: list[int], seed: int, settings: ImageSettings) -> list[int]:
    """The official loop, plainly: left-padded rows through the dense forward, all positions, no cache."""
    config, vocabulary = model.config, model.config.vocabulary
    tokens, steps = config.num_image_tokens, settings.steps
    rows = []
    for ids in (text, []):
        prompt = vocabulary.t2i_text(ids, config.max_text_len)
        pads = [vocabulary.pad] * vocabulary.t2i_pad(prompt, config.max_text_len)
        rows.append([*pads, *prompt, *vocabulary.image([-1] * tokens)])
    ids = torch.tensor(rows)
    mask = t2i_mask(ids, vocabulary.pad, vocabulary.soi, vocabulary.eoi)
    codes, sampled = torch.full((tokens,), -1), torch.empty(0)
    uniform = randoms(seed, steps, tokens)
    for step, temperature in enumerate(temperatures(settings.temperature, steps)):
        ids[:, -tokens - 1 : -1] = torch.where(codes < 0, vocabulary.mask, codes + vocabulary.code_offset)
        with torch.no_grad():
            logits = model.head(model(ids, mask))[:, -tokens - 1 : -1, vocabulary.code_offset : -1]
        drawn, logp = draw(guide(logits[0], logits[1], settings.guidance), uniform[step, 0])
        unknown = codes < 0
        sampled = torch.where(unknown, drawn, codes)
        left = left_masked(unknown.sum()[None], tokens, step, steps, settings.schedule)
        again = mask_again(logp[None], unknown[None], gumbel(uniform[step, 1])[None], temperature, left)[0]
        codes = torch.where(again, -1, sampled)
    return sampled.tolist()


@pytest.mark.parametrize(
    ("guidance", "schedule"), [(0.0, "cosine"), (2.0, "cosine"), (2.0, "linear"), (0.0, "pow3")]
)
def test_the_batched_sampler_equals_a_plain_dense_loop(model: Showo, guidance: float, schedule: str) -> None:
    settings = ImageSettings(steps=9, guidance=guidance, schedule=schedule)
    texts: list[list[int]] = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11, 12, 13]]
    seeds = [[11, 12], [13], [14, 15, 16]]
    generated = generate(model, texts, seeds, settings, batch=4)
    for text, of_text, found in zip(texts, seeds, generated, strict=True):
        assert found == [dense_loop(model, text, seed, settings) for seed in of_text]


def test_a_generated_candidate_is_the_same_alone_or_in_any_batch(model: Showo) -> None:
    settings = ImageSettings()
    texts, seeds = [[1, 2, 3], [4], [5, 6]], [list(range(5)), list(range(5, 10)), list(range(10, 15))]
    together = generate(model, texts, seeds, settings, batch=16)
    assert generate(model, texts, seeds, settings, batch=4) == together
    for text, of_text, found in zip(texts, seeds, together, strict=True):
        assert [generate(model, [text], [[seed]], settings, batch=1)[0][0] for seed in of_text] == found


def test_every_position_of_a_generated_image_is_a_code(model: Showo) -> None:
    for steps in (1, 2, 36, 50):
        codes = generate(model, [[1]], [[5]], ImageSettings(steps=steps), batch=1)[0][0]
        assert len(codes) == 36
        assert all(0 <= code < 64 for code in codes)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 0.0, -1.0, 0.5, -30.0])
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    codes, logp = draw(logits.expand(len(uniform), -1), uniform)
    wanted = logits.softmax(-1)
    assert (codes.bincount(minlength=5) / len(uniform) - wanted).abs().max() < 0.01
    assert torch.allclose(logp, wanted.log()[codes], atol=1e-6)


def test_the_extremes_of_a_uniform_draw_are_codes_and_finite_noise() -> None:
    edges = torch.tensor([0.0, 1 - 2**-24])
    codes, logp = draw(torch.zeros(2, 7), edges)
    assert codes.tolist() == [0, 6]
    assert torch.isfinite(logp).all()
    assert torch.isfinite(gumbel(torch.tensor([0.0, 1.0, 0.5]))).all()


def test_temperature_compounds_and_ends_at_zero() -> None:
    assert temperatures(1.0, 8)[:3] == pytest.approx([0.875, 0.65625, 0.41015625])
    assert temperatures(1.0, 8)[-1] == 0.0


@pytest.mark.parametrize(
    ("schedule", "half", "end"),
    [
        ("cosine", 0.7071068, -4.4e-8),
        ("linear", 0.5, 1e-6),
        ("pow2", 0.75, 1e-6),
        ("pow0.5", 0.2928932, 1e-6),
        ("sigmoid", 0.5, 1e-6),
    ],
)
def test_schedules_run_from_all_masked_to_none(schedule: str, half: float, end: float) -> None:
    shares = [masked_share(schedule, torch.tensor(ratio)).item() for ratio in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(1.0)
    assert shares[2] == pytest.approx(half, abs=1e-6)
    assert shares[4] == pytest.approx(end, abs=1e-7)


@pytest.mark.parametrize("schedule", ["", "pow", "cosin", "pow-1"])
def test_an_unknown_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(EngineError, match=f"schedule '{schedule}' is not known"):
        check_schedule(schedule)


def test_a_known_position_is_never_masked_again() -> None:
    unknown: Tensor = torch.tensor([[True, True, True, False]])
    logp = torch.full((1, 4), math.log(SMALLEST))
    noise = torch.tensor([[9.0, 8.0, 7.0, -40.0]])
    masked = mask_again(logp, unknown, noise, 1.0, torch.tensor([2]))
    assert masked.tolist() == [[False, True, True, False]]
