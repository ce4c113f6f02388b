"""The engine on real vLLM: parity with the training model, salted prefixes, seeds, swaps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoints.swap_probe import Probe, ProbeSet, fixed_captions
from engine.checkpoints.weights import fingerprint, load_config, load_model, save_state
from engine.errors import CheckpointError, EngineError
from engine.models.masks import mmu_mask
from engine.models.showo import Showo
from engine.records import CaptionSettings, ImageSettings, ImageTokens, Question, SampledCaption
from engine.samplers.mask_predict import generate
from engine.samplers.seeds import sample_seed

pytest.importorskip("vllm")

if TYPE_CHECKING:
    from engine.serving.engine import Engine

Asking = Callable[..., Question]
TOLERANCE = 1e-5
"""Largest difference allowed between vLLM's log-probs and the training model's; measured 2.1e-6, float32."""

GREEDY = CaptionSettings(temperature=0.0, max_tokens=12)
SAMPLED = CaptionSettings(temperature=1.0, max_tokens=12)


@pytest.fixture
def engine(paged_engine: Engine) -> Engine:
    """vLLM's own decoding; that of branches has tests of its own."""
    return paged_engine


def prompt_ids(engine: Engine) -> list[int]:
    return engine.text.encode(engine.config.caption_prompt)


def dense_logprobs(engine: Engine, model: Showo, codes: tuple[int, ...], tail: list[int]) -> list[float]:
    """log p of every token of `tail` after the caption prompt, by the training model's dense forward."""
    vocabulary = model.config.vocabulary
    prompt = vocabulary.mmu_prompt(codes, prompt_ids(engine))
    ids = torch.tensor([[*prompt, *tail]])
    with torch.no_grad():
        logp = model.head(model(ids, mmu_mask(ids, vocabulary.eoi))).log_softmax(-1)[0]
    return [logp[len(prompt) - 1 + i, token].item() for i, token in enumerate(tail)]


def whole(caption: SampledCaption, eos: int) -> list[int]:
    """Token ids with eos where the caption ended by itself."""
    ended = len(caption.logprobs) > len(caption.token_ids)
    return [*caption.token_ids, *([eos] if ended else [])]


def tokens(captions: list[list[SampledCaption]]) -> list[list[tuple[int, ...]]]:
    return [[one.token_ids for one in row] for row in captions]


def keys(count: int) -> list[str]:
    return [f"item-{i}" for i in range(count)]


def test_vllm_and_the_training_model_agree_on_sampled_captions(
    engine: Engine, model: Showo, images: list[ImageTokens]
) -> None:
    worst = 0.0
    for image, row in zip(images, engine.caption(images, keys(8), 5, [SAMPLED] * 3), strict=True):
        for caption in row:
            dense = dense_logprobs(engine, model, image.codes, whole(caption, engine.config.vocabulary.eos))
            worst = max(worst, *(abs(a - b) for a, b in zip(caption.logprobs, dense, strict=True)))
    print(f"largest difference of a log-prob: {worst:.1e}")
    assert worst < TOLERANCE


def test_scores_of_given_captions_are_the_training_models(
    engine: Engine, model: Showo, images: list[ImageTokens]
) -> None:
    texts = ["a red circle", "two blue circle and three green square"] * 4
    for image, text, scored in zip(images, texts, engine.score(images, texts), strict=True):
        tail = [*engine.text.encode(text), engine.config.vocabulary.eos]
        assert scored == pytest.approx(dense_logprobs(engine, model, image.codes, tail), abs=TOLERANCE)


def test_greedy_captions_are_the_training_models_choices(
    engine: Engine, model: Showo, images: list[ImageTokens]
) -> None:
    vocabulary = model.config.vocabulary
    for image, (caption,) in zip(images, engine.caption(images, keys(8), 0, [GREEDY]), strict=True):
        ids = vocabulary.mmu_prompt(image.codes, prompt_ids(engine))
        for token in whole(caption, vocabulary.eos):
            row = torch.tensor([ids])
            with torch.no_grad():
                assert model.head(model(row, mmu_mask(row, vocabulary.eoi)))[0, -1].argmax() == token
            ids.append(token)


def test_images_that_share_their_first_tokens_never_share_blocks(
    engine: Engine, model: Showo, images: list[ImageTokens]
) -> None:
    first = images[0]
    other = ImageTokens(codes=(*first.codes[:-4], *((code + 1) % 64 for code in first.codes[-4:])))
    requests = [engine.prompts.requests(image, [prompt_ids(engine)], 1)[0] for image in (first, other)]
    assert requests[0]["prompt_token_ids"][:32] == requests[1]["prompt_token_ids"][:32]

    def next_logprob(request: dict[str, object]) -> tuple[list[int], list[float]]:
        params = engine.server.sampling(temperature=0.0, max_tokens=1, logprobs=0)
        output = engine.server.generate([request], [params])[0].outputs[0]
        token = output.token_ids[0]
        return [token], [output.logprobs[0][token].logprob]

    for image, request in zip((first, other), requests, strict=True):
        token, found = next_logprob(request)
        assert found == pytest.approx(dense_logprobs(engine, model, image.codes, token), abs=TOLERANCE)
    next_logprob({**requests[0], "cache_salt": "one salt for both"})
    token, wrong = next_logprob({**requests[1], "cache_salt": "one salt for both"})
    assert abs(wrong[0] - dense_logprobs(engine, model, other.codes, token)[0]) > 100 * TOLERANCE


def test_a_caption_is_the_same_alone_or_in_a_batch(engine: Engine, images: list[ImageTokens]) -> None:
    plan = [SAMPLED, SAMPLED, GREEDY, CaptionSettings(temperature=0.7, top_k=5, top_p=0.9, max_tokens=7)]
    together = engine.caption(images, keys(8), 9, plan)
    alone = [engine.caption([image], [key], 9, plan)[0] for image, key in zip(images, keys(8), strict=True)]
    assert tokens(alone) == tokens(together)
    assert tokens(engine.caption(images[::-1], keys(8)[::-1], 9, plan)) == tokens(together)[::-1]
    engine.server.reset_caches()
    assert tokens(engine.caption(images[5:], keys(8)[5:], 9, plan[:2])) == tokens(
        [r[:2] for r in together[5:]]
    )
    assert [one.seed for one in together[3]] == [sample_seed(9, "item-3", "caption", i) for i in range(4)]
    assert len({one.token_ids for one in together[0]}) > 1


def test_a_generated_image_is_the_same_alone_or_in_a_batch_and_equals_the_training_models(
    engine: Engine, model: Showo
) -> None:
    prompts = ["a red circle", "two blue square and a green circle", "three"]
    together = engine.generate_images(prompts, 7, keys(3), 4, ImageSettings())
    alone = [
        engine.generate_images([p], 7, [k], 4, ImageSettings())[0]
        for p, k in zip(prompts, keys(3), strict=True)
    ]
    assert alone == together
    seeds = [[one.seed for one in row] for row in together]
    texts = [engine.text.encode(prompt) for prompt in prompts]
    plain = generate(model, texts, seeds, ImageSettings(), batch=8)
    assert [[list(one.codes) for one in row] for row in together] == plain


def test_every_candidate_follows_its_own_entry_of_the_plan(engine: Engine, images: list[ImageTokens]) -> None:
    plan = [
        GREEDY,
        SAMPLED,
        CaptionSettings(temperature=2.0, top_k=3, max_tokens=5),
        SAMPLED,
    ]
    rows = engine.caption(images, keys(8), 9, plan)
    assert [row[0].token_ids for row in rows] == [
        one.token_ids for (one,) in engine.caption(images, keys(8), 3, [GREEDY])
    ]
    assert tokens([row[:2] for row in rows]) == tokens(engine.caption(images, keys(8), 9, plan[:2]))
    assert max(len(row[2].logprobs) for row in rows) == 5
    penalised = CaptionSettings(temperature=0.0, repetition_penalty=50.0, max_tokens=12)
    for (caption,) in engine.caption(images, keys(8), 9, [penalised]):
        assert len(set(caption.token_ids)) == len(caption.token_ids)
    assert any(len(set(row[0].token_ids)) < len(row[0].token_ids) for row in rows)


def test_questions_of_an_image_come_back_in_order(
    engine: Engine, images: list[ImageTokens], ask: Asking
) -> None:
    questions = [
        [ask("what color is the circle?")],
        [],
        [ask("how many?"), ask("is a square blue?"), ask("what color is the circle?")],
    ]
    answers = engine.answer([images[0], images[1], images[2]], questions)
    assert [len(row) for row in answers] == [1, 0, 3]
    assert answers[2][1] == engine.answer([images[2]], [[questions[2][1]]])[0][0]


def test_pixels_to_codes_and_back(engine: Engine) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    encoded = engine.encode(pixels)
    assert [len(image.codes) for image in encoded] == [36, 36, 36]
    decoded = engine.decode([image.codes for image in encoded])
    assert (decoded.shape, decoded.dtype) == ((3, 48, 48, 3), np.uint8)


def test_a_swap_equals_a_fresh_engine_and_swapping_back_restores(
    engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], ask: Asking
) -> None:
    from engine.serving.engine import Engine

    def everything(served: Engine) -> tuple[object, ...]:
        return (
            tokens(served.caption(images, keys(8), 1, [SAMPLED] * 2)),
            tokens(served.caption(images, keys(8), 1, [GREEDY])),
            served.generate_images(["a red circle"], 3, ["x"], 1, ImageSettings()),
            served.answer(images[:2], [[ask("what color?", "red", "blue")]] * 2),
        )

    before, version = everything(engine), engine.version
    engine.swap(checkpoints[1])
    try:
        swapped = everything(engine)
        assert engine.fingerprint == fingerprint(checkpoints[1])
        plain = load_model(checkpoints[1])
        (scores,) = engine.score(images[:1], ["a red circle"])
        tail = [*engine.text.encode("a red circle"), engine.config.vocabulary.eos]
        assert scores == pytest.approx(dense_logprobs(engine, plain, images[0].codes, tail), abs=TOLERANCE)
        with Engine(checkpoints[1], kv_cache_gib=0.125, sampler="paged") as fresh:
            assert everything(fresh) == swapped
    finally:
        engine.swap(checkpoints[0])
    assert swapped != before
    assert everything(engine) == before
    assert engine.version == version + 2


def test_a_misfit_is_refused_with_all_its_problems_while_the_engine_serves_on(
    engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    state = load_file(checkpoints[0] / "model.safetensors")
    state["showo.extra"] = torch.zeros(2)
    del state["showo.lm_head.bias"]
    state["showo.model.layers.1.mlp.fc1.bias"] = torch.zeros(3)
    state["showo.model.final_layernorm.bias"] = torch.zeros(64, dtype=torch.int64)
    config = load_config(checkpoints[0])
    config.rope_theta = 5.0
    save_state(state, config, tmp_path)
    before, version = engine.caption(images, keys(8), 0, [GREEDY]), engine.version
    with pytest.raises(CheckpointError) as refused:
        engine.swap(tmp_path)
    for problem in (
        "rope_theta is 5.0, the served model has 10000.0",
        "unknown showo.extra",
        "missing showo.lm_head.bias",
        "showo.model.layers.1.mlp.fc1.bias has shape [3], the model [128]",
        "showo.model.final_layernorm.bias is torch.int64",
    ):
        assert problem in str(refused.value)
    assert engine.caption(images, keys(8), 0, [GREEDY]) == before
    assert (engine.version, engine.fingerprint) == (version, fingerprint(checkpoints[0]))


def test_a_load_that_fails_half_way_leaves_the_old_weights_serving(
    engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    state = load_file(checkpoints[1] / "model.safetensors")
    del state["showo.lm_head.bias"]
    save_file(state, tmp_path / "model.safetensors")
    before = engine.caption(images, keys(8), 0, [SAMPLED] * 2)
    with pytest.raises(CheckpointError, match=r"lacks showo\.lm_head\.bias"):
        engine.server.rpc("past the checks", "hermes_stage", str(tmp_path / "model.safetensors"))
    save_file(
        {"showo.strange": torch.zeros(1)} | load_file(checkpoints[1] / "model.safetensors"), tmp_path / "x"
    )
    with pytest.raises(CheckpointError, match=r"does not know showo\.strange"):
        engine.server.rpc("past the checks", "hermes_stage", str(tmp_path / "x"))
    assert engine.caption(images, keys(8), 0, [SAMPLED] * 2) == before


def test_weights_whose_probes_are_not_the_trainers_are_sent_back(
    engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    def probes_of(trained: Path) -> bytes:
        model, probes = load_model(trained), []
        for codes, ids in fixed_captions(engine.config):
            logps = dense_logprobs(engine, model, codes, [*ids, engine.config.vocabulary.eos])
            probes.append(Probe(codes, ids, sum(logps)))
        return msgspec.json.encode(ProbeSet(dtype="float32", probes=tuple(probes)))

    save_state(load_file(checkpoints[1] / "model.safetensors"), load_config(checkpoints[1]), tmp_path)
    before, version = engine.caption(images, keys(8), 0, [GREEDY]), engine.version
    generated = engine.generate_images(["a red circle"], 2, ["x"], 1, ImageSettings())
    (tmp_path / "probes.json").write_bytes(probes_of(checkpoints[0]))
    with pytest.raises(CheckpointError, match="the weights from before still serve"):
        engine.swap(tmp_path)
    assert (engine.version, engine.fingerprint) == (version, fingerprint(checkpoints[0]))
    assert engine.caption(images, keys(8), 0, [GREEDY]) == before
    assert engine.generate_images(["a red circle"], 2, ["x"], 1, ImageSettings()) == generated
    (tmp_path / "probes.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"probes\.json: cannot be read"):
        engine.swap(tmp_path)
    (tmp_path / "probes.json").unlink()
    (tmp_path / "canary.json").touch()
    with pytest.raises(CheckpointError, match=r"canary\.json: of an earlier version of Hermes; remove"):
        engine.swap(tmp_path)
    (tmp_path / "canary.json").unlink()
    (tmp_path / "probes.json").write_bytes(probes_of(checkpoints[1]))
    engine.swap(tmp_path)
    try:
        assert engine.caption(images, keys(8), 0, [GREEDY]) != before
    finally:
        engine.swap(checkpoints[0])
    assert engine.caption(images, keys(8), 0, [GREEDY]) == before


def test_a_truncated_file_changes_nothing(
    engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    save_state(load_file(checkpoints[1] / "model.safetensors"), load_config(checkpoints[1]), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    before = engine.caption(images, keys(8), 0, [GREEDY])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        engine.swap(tmp_path)
    assert engine.caption(images, keys(8), 0, [GREEDY]) == before


def test_bad_requests_are_refused_in_words(engine: Engine, images: list[ImageTokens]) -> None:
    with pytest.raises(EngineError, match="36 codes below 64, not 2 codes from 1 to 99"):
        engine.caption([ImageTokens(codes=(1, 99))], ["x"], 0, [GREEDY])
    with pytest.raises(EngineError, match="exceed the model's 96 positions"):
        engine.caption(images[:1], ["x"], 0, [CaptionSettings(max_tokens=90)])
    with pytest.raises(EngineError, match="1 keys for 8 inputs"):
        engine.caption(images, ["x"], 0, [GREEDY])


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    from engine.serving.engine import Engine

    with pytest.raises(CheckpointError, match=r"no config\.json"):
        Engine(tmp_path)


def test_the_served_model_names_unknown_and_missing_tensors(
    engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    from engine.serving.engine import Engine

    state = load_file(checkpoints[0] / "model.safetensors")
    state["showo.model.strange"] = state.pop("showo.model.final_layernorm.weight")
    save_state(state, load_config(checkpoints[0]), tmp_path, checkpoints[0])
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"unknown showo.model.strange.*missing showo.model.final_layernorm.weight"
    ):
        Engine(tmp_path, kv_cache_gib=0.125)
    assert engine.caption(images[:1], ["x"], 0, [GREEDY])[0][0].token_ids
