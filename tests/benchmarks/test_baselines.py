"""The baselines do the engine's work, and the scripts run: on a tiny shape, with no claim about time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import roofline, sampling, sides, workload
from benchmarks.speed.batched_loop import continue_texts
from benchmarks.speed.candidates import costs, random_work, works
from benchmarks.speed.cost_plot import draw
from benchmarks.speed.fused import FusedShowo
from benchmarks.speed.official_loop import EngineDice, FreeDice, continue_text, generate
from benchmarks.speed.roofline import Paths, hidden_counts
from benchmarks.speed.shapes import SHAPES, config_of, make
from benchmarks.speed.sides import Models, Plan
from engine.checkpoints.weights import load_model
from engine.models.showo import Showo
from engine.records import CaptionSettings, ImageSettings
from engine.samplers import mask_predict
from engine.tokenizers.text import TextTokenizer

PLAN = Plan(shape="tiny", images=2, n=2, questions=2, prompts=1, longest=10, steps=4, official=2, repeats=2)


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
    assert sides.check_captions(models, PLAN) == {"official": True, "batched": True}


def test_greedy_answers_of_both_baselines_are_the_engines(models: Models) -> None:
    assert sides.check_answers(models, PLAN) == {"official": True, "batched": True}


def test_images_of_both_baselines_are_the_engines_under_its_random_numbers(models: Models) -> None:
    assert sides.check_images(models, PLAN) == {"official": True, "batched": True}


def test_greedy_captions_depend_on_the_image(models: Models) -> None:
    greedy, dice = CaptionSettings(temperature=0.0, max_tokens=12), sides.generator(0)
    prompts = [models.caption_prompt(image) for image in workload.images(models.config, 4, 0)]
    found = [tuple(continue_text(models.model, prompt, greedy, dice)) for prompt in prompts]
    assert len(set(found)) == 4


def test_prompts_of_different_lengths_in_a_batch_are_continued_as_alone(models: Models) -> None:
    greedy, lengths = CaptionSettings(temperature=0.0, max_tokens=9), [9, 3, 6]
    images = workload.images(models.config, 3, 1)
    prompts = [[*models.caption_prompt(image), *range(5 * i)] for i, image in enumerate(images)]
    together = continue_texts(models.model, prompts, greedy, lengths, sides.generator(0))
    alone = [
        continue_text(
            models.model, prompt, CaptionSettings(temperature=0.0, max_tokens=length), sides.generator(0)
        )
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    assert together == alone


def test_a_row_that_meets_the_end_token_stops_there(models: Models, checkpoint: Path) -> None:
    sure = load_model(checkpoint)
    with torch.no_grad():
        sure.head.bias[sure.config.vocabulary.eos] = 100.0
    prompt, settings = models.caption_prompt(workload.images(models.config, 1, 2)[0]), CaptionSettings()
    assert continue_text(sure, prompt, settings, sides.generator(0)) == []
    assert continue_texts(sure, [prompt], settings, [5], sides.generator(0)) == [[]]


def test_sampled_captions_are_exactly_as_long_as_the_plan_says(models: Models) -> None:
    plan = workload.ragged_plan(4, 20, 3)
    lengths = [entry.max_tokens for entry in plan]
    images = workload.images(models.config, 2, 3)
    ours = models.engine.caption(images, ["a", "b"], 0, plan)
    assert [[len(one.token_ids) for one in of_image] for of_image in ours] == [lengths] * 2
    prompts = [models.caption_prompt(image) for image in images for _ in lengths]
    theirs = continue_texts(models.model, prompts, CaptionSettings(), lengths * 2, sides.generator(0))
    assert [len(one) for one in theirs] == lengths * 2


def test_the_first_pairs_of_a_plan_are_as_long_as_all_of_it_on_average() -> None:
    for seed in range(20):
        lengths = [entry.max_tokens for entry in workload.ragged_plan(8, 40, seed)]
        assert {sum(lengths[i : i + 2]) for i in (0, 2, 4, 6)} == {48}
        assert all(8 <= length <= 40 for length in lengths)
        assert len(set(lengths)) > 1


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_a_baselines_image_generation_hides_as_many_positions_as_the_rule_says(
    checkpoint: Path, steps: int
) -> None:
    model, settings = load_model(checkpoint), ImageSettings(steps=steps, guidance=2.0)
    dice = FreeDice(sides.generator(4), 3, 36)
    generated = generate(model, [1, 2, 3], 3, settings, dice)
    assert generated.hidden == [[count] * 3 for count in hidden_counts(model.config, settings)]
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
    codes, logp = FreeDice(sides.generator(0), 100, 200).codes(0, logits)
    wanted = logits[0, 0].softmax(-1)
    assert (codes.flatten().bincount(minlength=4) / codes.numel() - wanted).abs().max() < 0.02
    assert torch.allclose(logp, wanted.log()[codes])


@pytest.mark.parametrize(("name", "millions"), [("small", 5.2), ("showo-1.3b", 1450)])
def test_a_shape_has_the_parameters_it_is_named_for(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = Showo(config_of(name))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


def test_the_released_shape_is_the_default_configuration() -> None:
    config, shape = config_of("showo-1.3b"), SHAPES["showo-1.3b"]
    assert config.vocab_size == 58_498
    assert (config.num_image_tokens, config.max_text_len, shape.layers) == (256, 128, 24)


def test_every_path_is_timed_against_every_baseline_and_gives_the_same(models: Models) -> None:
    rows = [row for path in sides.PATHS for row in sampling.timed(PLAN, getattr(sides, path)(models, PLAN))]
    found = [(row.path, row.mode, row.baseline, row.same_results) for row in rows]
    assert found == [
        ("captions", "sampled", "official", True),
        ("captions", "sampled", "batched", True),
        ("vqa", "text", "official", True),
        ("vqa", "text", "batched", True),
        ("vqa", "likelihood", "official", None),
        ("vqa", "likelihood", "batched", None),
        ("images", "guided", "official", True),
        ("images", "guided", "batched", True),
    ]
    assert all(row.spread[0] <= row.spread[1] for row in rows)
    assert len(sampling.table(rows).splitlines()) == len(rows)
    assert msgspec.json.decode(msgspec.json.encode(rows), type=list[sampling.Row]) == rows


def test_options_change_the_plan_that_they_name() -> None:
    given = sampling.options().parse_args(["--quick", "--paths", "vqa", "--image-steps", "5", "--n", "4"])
    plan = sampling.plan_of(given)
    assert (plan.paths, plan.steps, plan.n) == (("vqa",), 5, 4)
    assert plan.images == sampling.QUICK.images


def test_costs_of_candidates_start_at_one_and_are_drawn(models: Models, tmp_path: Path) -> None:
    kinds = works(models.engine, CaptionSettings(max_tokens=4), ImageSettings(steps=2))
    source = random_work(models.engine)
    rows = {name: costs(name, work, source, 2, [1, 2], 2, 0) for name, work in kinds.items()}
    for found in rows.values():
        assert [row.n for row in found] == [1, 2]
        assert found[0].cost == found[0].per_candidate == 1
        assert found[1].cost > 0
    curves = {name: [(row.n, row.cost, row.spread) for row in found] for name, found in rows.items()}
    draw(curves, tmp_path / "costs.json")
    assert {path.name for path in tmp_path.iterdir()} == {"costs.png", "costs.svg"}


def test_work_that_is_needed_grows_as_it_must(models: Models) -> None:
    config, settings = models.config, ImageSettings(steps=4, guidance=2.0)
    one = roofline.image_need(config, [5], 1, settings, 16, 4)
    assert roofline.image_need(config, [5], 16, settings, 16, 4).gbyte == one.gbyte
    assert 1 < roofline.image_need(config, [5], 2, settings, 16, 4).gflop / one.gflop < 2
    bare = roofline.image_need(config, [5], 1, ImageSettings(steps=4, guidance=0.0), 16, 4)
    assert 1.9 < one.gflop / bare.gflop < 2.1
    assert roofline.prefill_need(config, 9, 2, 4).gflop == 2 * roofline.prefill_need(config, 9, 1, 4).gflop
    near, far = (roofline.decode_need(config, context, 8, "float32") for context in (50, 100))
    assert near.gbyte < far.gbyte < 2 * near.gbyte


def test_needed_products_of_a_prefill_are_those_that_torch_counts(checkpoint: Path) -> None:
    model = load_model(checkpoint)
    ids = torch.zeros(1, 48, dtype=torch.long)
    plain = sdpa_kernel(SDPBackend.MATH)  # the fused kernel's products are not counted
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, torch.ones(1, 1, 48, 48, dtype=torch.bool))
    config = model.config
    ours = 48 * roofline.weight_flops(config) + roofline.attention_flops(config, 48, 48)
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.01)


def test_each_path_has_a_share_of_a_ceiling(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "DECODED", 3)
    limits = roofline.Ceilings({"float32": 50.0}, 40.0, 100, 10.0, 8.0, 9.0)
    paths = Paths(models.engine, models.text, "float32", ImageSettings(steps=2, guidance=1.0))
    for found in (paths.prefill(1), paths.decode(1), paths.images(1, 1, 2, 16)):
        row = roofline.row("path", found, limits, "tiny", "float32", 2)
        assert row.share == pytest.approx(max(row.of_products, row.of_bandwidth))
        assert roofline.line(row)


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
