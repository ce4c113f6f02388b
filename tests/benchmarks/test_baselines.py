"""The baselines do the engine's work, and the scripts run: on a tiny shape, with no claim about time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import ceiling
from benchmarks.speed import sampling, workload
from benchmarks.speed.batched_loop import continue_texts
from benchmarks.speed.bench import Timing
from benchmarks.speed.candidates import calls, costs, random_inputs
from benchmarks.speed.fused import FusedShowo
from benchmarks.speed.model_sizes import MODEL_SIZES, config_of, make
from benchmarks.speed.official_loop import EngineDice, FreeDice, continue_text, generate
from benchmarks.speed.sampling import Models, SamplingSettings
from engine.checkpoints.weights import load_model
from engine.models.showo import Showo
from engine.records import CaptionSettings, ImageSettings
from engine.samplers import mask_predict
from engine.tokenizers.text import TextTokenizer

PLAN = SamplingSettings(
    shape="tiny", images=2, n=2, questions=2, prompts=1, longest=10, steps=4, official=2, repeats=2
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of the tiny shape."""
    return make(tmp_path_factory.mktemp("tiny"), "tiny")


@pytest.fixture(scope="module")
def models(checkpoint: Path) -> Iterator[Models]:
    """It, served and as the training module."""
    pytest.importorskip("vllm")
    from engine.serving.engine import Engine

    text = TextTokenizer.load(checkpoint / "tokenizer.json")
    with Engine(checkpoint, kv_cache_gib=0.125) as engine:
        yield Models(engine, load_model(checkpoint), text)


def test_greedy_captions_of_both_baselines_are_the_engines(models: Models) -> None:
    assert sampling.check_captions(models, PLAN) == {"official": True, "batched": True}


def test_greedy_answers_of_both_baselines_are_the_engines(models: Models) -> None:
    assert sampling.check_answers(models, PLAN) == {"official": True, "batched": True}


def test_images_of_both_baselines_are_the_engines_under_its_random_numbers(models: Models) -> None:
    assert sampling.check_images(models, PLAN) == {"official": True, "batched": True}


def test_greedy_captions_depend_on_the_image(models: Models) -> None:
    greedy, dice = CaptionSettings(temperature=0.0, max_tokens=12), generator(0)
    prompts = [models.caption_prompt(image) for image in workload.images(models.config, 4, 0)]
    found = [tuple(continue_text(models.model, prompt, greedy, dice)) for prompt in prompts]
    assert len(set(found)) == 4


def test_prompts_of_different_lengths_in_a_batch_are_continued_as_alone(models: Models) -> None:
    greedy, lengths = CaptionSettings(temperature=0.0, max_tokens=9), [9, 3, 6]
    images = workload.images(models.config, 3, 1)
    prompts = [[*models.caption_prompt(image), *range(5 * i)] for i, image in enumerate(images)]
    together = continue_texts(models.model, prompts, greedy, lengths, generator(0))
    alone = [
        continue_text(models.model, prompt, CaptionSettings(temperature=0.0, max_tokens=length), generator(0))
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    assert together == alone


def test_a_row_that_meets_the_end_token_stops_there(models: Models, checkpoint: Path) -> None:
    sure = load_model(checkpoint)
    with torch.no_grad():
        sure.head.bias[sure.config.vocabulary.eos] = 100.0
    prompt, settings = models.caption_prompt(workload.images(models.config, 1, 2)[0]), CaptionSettings()
    assert continue_text(sure, prompt, settings, generator(0)) == []
    assert continue_texts(sure, [prompt], settings, [5], generator(0)) == [[]]


def test_sampled_captions_are_exactly_as_long_as_the_plan_says(models: Models) -> None:
    plan = workload.ragged_plan(4, 20, 3)
    lengths = [entry.max_tokens for entry in plan]
    images = workload.images(models.config, 2, 3)
    ours = models.engine.caption(images, ["a", "b"], 0, plan)
    assert [[len(one.token_ids) for one in of_image] for of_image in ours] == [lengths] * 2
    prompts = [models.caption_prompt(image) for image in images for _ in lengths]
    theirs = continue_texts(models.model, prompts, CaptionSettings(), lengths * 2, generator(0))
    assert [len(one) for one in theirs] == lengths * 2


def test_the_first_pairs_of_a_plan_are_as_long_as_all_of_it_on_average() -> None:
    for seed in range(20):
        lengths = [entry.max_tokens for entry in workload.ragged_plan(8, 40, seed)]
        assert {sum(lengths[i : i + 2]) for i in (0, 2, 4, 6)} == {48}
        assert all(8 <= length <= 40 for length in lengths)
        assert len(set(lengths)) > 1


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_a_baseline_masks_as_many_positions_as_the_rule_says(checkpoint: Path, steps: int) -> None:
    model, settings = load_model(checkpoint), ImageSettings(steps=steps, guidance=2.0)
    dice = FreeDice(generator(4), 3, 36)
    generated = generate(model, [1, 2, 3], 3, settings, dice)
    assert generated.hidden == [[count] * 3 for count in ceiling.masked_counts(model.config, settings)]
    assert all(0 <= code < 64 for codes in generated.codes for code in codes)


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_a_baselines_image_generation_is_the_samplers(checkpoint: Path, guidance: float) -> None:
    model, seeds = load_model(checkpoint), [3, 4]
    settings = ImageSettings(steps=6, guidance=guidance)
    (wanted,) = mask_predict.generate(model, [[1, 2, 3]], [seeds], settings, 2)
    dice = EngineDice(seeds, settings.steps, 36)
    assert generate(model, [1, 2, 3], 2, settings, dice).codes == wanted


def test_multinomial_draws_follow_the_codes_distribution() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5]).expand(100, 200, 4)
    codes, logp = FreeDice(generator(0), 100, 200).codes(0, logits)
    wanted = logits[0, 0].softmax(-1)
    assert (codes.flatten().bincount(minlength=4) / codes.numel() - wanted).abs().max() < 0.02
    assert torch.allclose(logp, wanted.log()[codes])


@pytest.mark.parametrize(("name", "millions"), [("small", 5.2), ("showo-1.3b", 1450)])
def test_a_shape_has_the_parameters_it_is_named_for(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = Showo(config_of(name))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


def test_the_released_shape_is_the_default_configuration() -> None:
    config, shape = config_of("showo-1.3b"), MODEL_SIZES["showo-1.3b"]
    assert config.vocab_size == 58_498
    assert (config.num_image_tokens, config.max_text_len, shape.layers) == (256, 128, 24)


def test_every_work_is_timed_against_every_baseline_and_gives_the_same(models: Models) -> None:
    rows = [row for work in PLAN.works for row in sampling.CONTESTS[work](models, PLAN).timed(PLAN)]
    assert [(row.work, row.side, row.same) for row in rows] == [
        ("captions", "ours", None),
        ("captions", "official", True),
        ("captions", "batched", True),
        ("answers", "ours", None),
        ("answers", "ours, likelihood", None),
        ("answers", "official", True),
        ("answers", "batched", True),
        ("images", "ours", None),
        ("images", "official", True),
        ("images", "batched", True),
    ]
    for row in rows:
        assert row.spread
        assert row.spread[0] <= row.spread[1]
    assert msgspec.json.decode(msgspec.json.encode(rows), type=list[Timing]) == rows


def test_costs_of_candidates_start_at_one(models: Models) -> None:
    source = random_inputs(models.engine)
    for work, call in calls(models.engine, CaptionSettings(max_tokens=4), ImageSettings(steps=2)).items():
        first, second = costs(work, call, source, 2, [1, 2], 2, 0)
        assert (first.side, first.ratio, second.side) == ("n = 1", 1, "n = 2")
        assert second.ratio
        assert second.ratio > 0


def test_needed_products_of_image_generation_grow_as_they_must(checkpoint: Path) -> None:
    config, settings = load_model(checkpoint).config, ImageSettings(steps=4, guidance=2.0)
    one = ceiling.image_gflop(config, [5], 1, settings)
    assert 1 < ceiling.image_gflop(config, [5], 2, settings) / one < 2
    assert 1.9 < one / ceiling.image_gflop(config, [5], 1, ImageSettings(steps=4, guidance=0.0)) < 2.1


def test_needed_products_of_a_pass_are_those_that_torch_counts(checkpoint: Path) -> None:
    model = load_model(checkpoint)
    ids = torch.zeros(1, 48, dtype=torch.long)
    plain = sdpa_kernel(SDPBackend.MATH)  # the fused kernel's products are not counted
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, torch.ones(1, 1, 48, 48, dtype=torch.bool))
    config = model.config
    ours = 48 * ceiling.weight_flops(config) + ceiling.attention_flops(config, 48, 48)
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.01)


def test_a_checkpoint_that_is_there_is_kept(checkpoint: Path) -> None:
    before = (checkpoint / "model.safetensors").stat().st_mtime_ns
    assert make(checkpoint.parent, "tiny") == checkpoint
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("static", [False, True])
def test_the_fused_model_generates_what_the_training_module_generates(checkpoint: Path, static: bool) -> None:
    model, settings = load_model(checkpoint), ImageSettings(steps=6, guidance=3.0)
    texts, seeds = [[1, 2, 3], [4]], [[3, 4, 5], [6, 7]]
    wanted = mask_predict.generate(model, texts, seeds, settings, 4)
    assert mask_predict.generate(FusedShowo(model), texts, seeds, settings, 4, static=static) == wanted
