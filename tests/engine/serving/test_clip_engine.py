"""The engine on a variant that understands CLIP features: parity with the training model, caches, swaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import engine as package
from engine.checkpoints.weights import load_config, load_model, save_state
from engine.errors import CheckpointError, EngineError
from engine.models.clip_tower import ClipTower
from engine.models.masks import feature_mask
from engine.models.showo import Showo
from engine.records import CaptionSettings, ImageSettings, ImageTokens, Question, SampledCaption
from engine.samplers.mask_predict import generate

pytest.importorskip("vllm")

if TYPE_CHECKING:
    from engine.serving.engine import Engine

Asking = Callable[..., Question]
TOLERANCE = 2e-5
GREEDY = CaptionSettings(temperature=0.0, max_tokens=12)
SAMPLED = CaptionSettings(temperature=1.0, max_tokens=12)
KEYS = [f"item-{i}" for i in range(4)]


@pytest.fixture(scope="module")
def served(clip_checkpoints: tuple[Path, Path]) -> Iterator[Engine]:
    from engine.serving.engine import Engine

    with Engine(clip_checkpoints[0], kv_cache_gib=0.125, sampler="paged") as opened:
        yield opened


@pytest.fixture(scope="module")
def branched(clip_checkpoints: tuple[Path, Path]) -> Iterator[Engine]:
    from engine.serving.engine import Engine

    if torch.cuda.is_available():
        pytest.skip("the branched sampler is for CPUs")
    with Engine(clip_checkpoints[0], kv_cache_gib=0.125, sampler="branched") as opened:
        yield opened


@pytest.fixture(scope="module")
def plain(clip_checkpoints: tuple[Path, Path]) -> Showo:
    return load_model(clip_checkpoints[0])


@pytest.fixture(scope="module")
def real(served: Engine) -> list[ImageTokens]:
    """Four real images."""
    return served.encode(np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), dtype=np.uint8))


def as_tensor(image: ImageTokens, model: Showo) -> torch.Tensor:
    shape = (1, model.config.clip_tokens, model.config.clip_size)
    return torch.from_numpy(np.frombuffer(image.features, "<f4").reshape(shape).copy())


def dense_rows(engine: Engine, model: Showo, image: ImageTokens, tail: list[int], text: str) -> torch.Tensor:
    """log p of what follows a prompt and each token of `tail`, by the training model in its own order."""
    config = model.config
    prompt = config.vocabulary.feature_prompt(
        config.system_ids, config.clip_tokens, engine.text.encode(text or config.caption_prompt)
    )
    ids = torch.tensor([[*prompt, *tail]])
    mask = feature_mask(ids.shape[1], config.image_start, config.clip_tokens)
    with torch.no_grad():
        hidden = model(ids, mask, features=as_tensor(image, model))
        return model.head(hidden[0, len(prompt) - 1 :]).log_softmax(-1)


def dense(engine: Engine, model: Showo, image: ImageTokens, tail: list[int], text: str = "") -> list[float]:
    """log p of every token of `tail`."""
    rows = dense_rows(engine, model, image, tail, text)
    return [rows[i, token].item() for i, token in enumerate(tail)]


def whole(caption: SampledCaption, eos: int) -> list[int]:
    ended = len(caption.logprobs) > len(caption.token_ids)
    return [*caption.token_ids, *([eos] if ended else [])]


def test_vllm_runs_this_very_code(served: Engine) -> None:
    root = Path(__file__).parents[3]
    assert Path(str(package.__file__)).is_relative_to(root)
    (found,) = served.server.llm.collective_rpc(
        lambda worker: type(worker.model_runner.get_model()).forward.__code__
    )
    assert Path(found.co_filename).is_relative_to(root)


def test_vllm_and_the_training_model_agree_on_sampled_captions(
    served: Engine, plain: Showo, real: list[ImageTokens]
) -> None:
    worst, tokens = 0.0, 0
    for image, row in zip(real, served.caption(real, KEYS, 5, [SAMPLED] * 4), strict=True):
        assert len({one.token_ids for one in row}) > 1
        for caption in row:
            found = dense(served, plain, image, whole(caption, served.config.vocabulary.eos))
            worst = max(worst, *(abs(a - b) for a, b in zip(caption.logprobs, found, strict=True)))
            tokens += len(found)
    print(f"largest difference of a log-prob: {worst:.1e} over {tokens} tokens")
    assert worst < TOLERANCE


def test_scores_of_given_captions_are_the_training_models(
    served: Engine, plain: Showo, real: list[ImageTokens]
) -> None:
    texts = ["a red circle", "two blue circle and three green square"] * 2
    worst = 0.0
    for image, text, scored in zip(real, texts, served.score(real, texts), strict=True):
        tail = [*served.text.encode(text), served.config.vocabulary.eos]
        found = dense(served, plain, image, tail)
        worst = max(worst, *(abs(a - b) for a, b in zip(scored, found, strict=True)))
    print(f"largest difference of a score: {worst:.1e}")
    assert worst < TOLERANCE


@pytest.mark.parametrize("name", ["served", "branched"])
def test_answers_are_the_training_models_choices(
    request: pytest.FixtureRequest, name: str, plain: Showo, real: list[ImageTokens], ask: Asking
) -> None:
    served: Engine = request.getfixturevalue(name)
    questions = [["what color is the circle?"], [], ["how many?", "is a square blue?"], ["three?"]]
    answers = served.answer(real, [[ask(question) for question in asked] for asked in questions])
    assert [len(row) for row in answers] == [1, 0, 2, 1]
    eos = plain.config.vocabulary.eos
    for image, asked, told in zip(real, questions, answers, strict=True):
        for question, answer in zip(asked, told, strict=True):
            ids: list[int] = []
            while len(ids) < 8 and eos not in ids:
                ids.append(int(dense_rows(served, plain, image, ids, question)[-1].argmax()))
            assert answer.text == served.text.decode([token for token in ids if token != eos])


def test_a_generated_image_is_seen_through_its_pixels(served: Engine, plain: Showo, ask: Asking) -> None:
    ((generated,),) = served.generate_images(["a red circle"], 1, ["x"], 4, ImageSettings())
    ((plainly,),) = generate(
        plain, [served.text.encode("a red circle")], [[generated.seed]], ImageSettings(), batch=2
    )
    assert list(generated.codes) == plainly
    pixels = served.decode([generated.codes])
    looked = ImageTokens(codes=generated.codes, features=served.encode(pixels)[0].features)
    assert len(looked.features) == 4 * 25 * 24
    assert served.score([generated], ["a circle"]) == served.score([looked], ["a circle"])
    asked = [[ask("how many?", "two", "three")]]
    assert served.answer([generated], asked) == served.answer([looked], asked)


def test_clip_sees_a_larger_image_as_it_is(served: Engine, clip_checkpoints: tuple[Path, Path]) -> None:
    large = np.random.default_rng(4).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    tower = ClipTower.load(clip_checkpoints[0] / "clip")
    for image, features in zip(served.encode(large), tower.features(large), strict=True):
        assert image.features == features.tobytes()
        assert len(image.codes) == 36


def test_images_that_share_their_first_features_never_share_blocks(
    served: Engine, plain: Showo, real: list[ImageTokens]
) -> None:
    first = real[0]
    half = bytearray(first.features)
    half[-4 * 24 :] = real[1].features[-4 * 24 :]
    other = ImageTokens(codes=first.codes, features=bytes(half))
    for image in (first, other, first, other):
        ((caption,),) = served.caption([image], ["x"], 0, [GREEDY])
        found = dense(served, plain, image, whole(caption, served.config.vocabulary.eos))
        assert caption.logprobs == pytest.approx(found, abs=TOLERANCE)
    requests = [
        served.prompts.requests(image, [served.text.encode("caption:")], 1)[0] for image in (first, other)
    ]
    assert requests[0]["cache_salt"] != requests[1]["cache_salt"]
    assert torch.equal(requests[0]["prompt_embeds"][:24], requests[1]["prompt_embeds"][:24])


def test_a_cached_prefix_gives_what_a_fresh_one_gives(
    served: Engine, plain: Showo, real: list[ImageTokens]
) -> None:
    served.server.llm.reset_prefix_cache()
    asked = "what color is the circle? " * 4
    params = served.server.sampling(temperature=0.0, max_tokens=1, logprobs=0)
    cached = []
    for _ in range(2):
        request = served.prompts.requests(real[0], [served.text.encode(asked)], 1)[0]
        output = served.server.generate([request], [params])[0]
        token = output.outputs[0].token_ids[0]
        found = output.outputs[0].logprobs[0][token].logprob
        assert found == pytest.approx(dense(served, plain, real[0], [token], asked)[0], abs=TOLERANCE)
        cached.append(output.num_cached_tokens)
    assert cached == [0, 32]


def test_a_caption_is_the_same_alone_in_a_batch_and_past_a_window(
    served: Engine, real: list[ImageTokens]
) -> None:
    together = served.caption(real, KEYS, 9, [SAMPLED] * 3)
    alone = [served.caption([one], [key], 9, [SAMPLED] * 3)[0] for one, key in zip(real, KEYS, strict=True)]
    many = served.caption(real * 10, KEYS * 10, 9, [SAMPLED] * 3)

    def ids(rows: list[list[SampledCaption]]) -> list[list[tuple[int, ...]]]:
        return [[one.token_ids for one in row] for row in rows]

    assert ids(alone) == ids(together)
    assert ids(many) == ids(together) * 10


def test_a_swap_changes_the_projector(
    served: Engine, clip_checkpoints: tuple[Path, Path], real: list[ImageTokens], tmp_path: Path
) -> None:
    state, other = (load_file(folder / "model.safetensors") for folder in clip_checkpoints)
    state |= {name: other[name] for name in other if name.startswith("mm_projector.")}
    save_state(state, load_config(clip_checkpoints[0]), tmp_path / "new", clip_checkpoints[0])
    tail = [*served.text.encode("a red circle"), served.config.vocabulary.eos]
    (before,) = served.score(real[:1], ["a red circle"])
    served.swap(tmp_path / "new")
    try:
        (after,) = served.score(real[:1], ["a red circle"])
        fresh = load_model(tmp_path / "new")
        assert after == pytest.approx(dense(served, fresh, real[0], tail), abs=TOLERANCE)
        assert max(abs(a - b) for a, b in zip(before, after, strict=True)) > 0.01
    finally:
        served.swap(clip_checkpoints[0])
    assert served.score(real[:1], ["a red circle"]) == [before]


def test_another_tower_or_a_lacking_projector_is_refused(
    served: Engine, clip_checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    state = load_file(clip_checkpoints[1] / "model.safetensors")
    del state["mm_projector.2.bias"]
    save_state(state, load_config(clip_checkpoints[1]), tmp_path, clip_checkpoints[1])
    with (tmp_path / "clip" / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    with pytest.raises(
        CheckpointError, match=r"clip/model\.safetensors differs.*missing mm_projector\.2\.bias"
    ):
        served.swap(tmp_path)


def test_features_of_another_size_are_refused(served: Engine, real: list[ImageTokens]) -> None:
    with pytest.raises(EngineError, match="25 features of 24 float32 numbers, not 8 bytes"):
        served.caption([ImageTokens(codes=real[0].codes, features=b"12345678")], ["x"], 0, [GREEDY])
    with pytest.raises(EngineError, match="36 codes below 64, not 1 codes"):
        served.caption([ImageTokens(codes=(1,))], ["x"], 0, [GREEDY])


def test_the_released_lengths_are_served_exactly(long_clip_checkpoint: Path) -> None:
    from engine.serving.engine import Engine

    model = load_model(long_clip_checkpoint)
    eos = model.config.vocabulary.eos
    worst, cached = 0.0, []
    with Engine(long_clip_checkpoint, kv_cache_gib=0.125, max_sequences=6, sampler="paged") as opened:
        images = opened.encode(np.random.default_rng(1).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8))
        for _ in range(2):
            for image, row in zip(images, opened.caption(images, KEYS[:3], 5, [SAMPLED] * 4), strict=True):
                for caption in row:
                    found = dense(opened, model, image, whole(caption, eos))
                    worst = max(worst, *(abs(a - b) for a, b in zip(caption.logprobs, found, strict=True)))
        params = opened.server.sampling(temperature=0.0, max_tokens=1)
        request = opened.prompts.requests(images[0], [[3, 4]], 1)[0]
        cached.append(opened.server.generate([request], [params])[0].num_cached_tokens)
    print(f"largest difference of a log-prob at the released lengths: {worst:.1e}")
    assert worst < TOLERANCE
    assert cached == [576]
