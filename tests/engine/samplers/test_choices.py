"""Answers read from the choices in one pass: the training model's numbers, plain decoding's texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
import torch

from curate.scoring.self_vqa import matched
from engine.checkpoints.weights import load_model
from engine.errors import EngineError
from engine.models.masks import feature_mask, mmu_mask
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.official.showo_layout import official_wording
from engine.records import AnswerSettings, ImageTokens, Question
from engine.samplers.choices import ChoiceLogprob, read_choices
from engine.samplers.continuations import ImageQuestions, Prefix, TokenizedQuestion
from engine.samplers.vqa_prompts import answer_from_choices, answer_room, format_question

pytest.importorskip("vllm")

if TYPE_CHECKING:
    from engine.serving.engine import Engine

TOLERANCE = 1e-5
LIKELIHOOD = AnswerSettings(mode="likelihood")
DECODED = AnswerSettings(drafts=False)

Asking = Callable[..., Question]


@pytest.fixture(scope="module")
def questions(ask: Asking) -> list[list[Question]]:
    """Of three images, with choices of one and more tokens."""
    return [
        [ask("what color is the circle?", "red", "green", "blue circle", "a blue circle and two red square")],
        [],
        [ask("how many?", "two", "three"), ask("is a square blue?", "a square", "the circle is", "how")],
    ]


def dense_choices(
    engine: Engine, model: Showo, image: ImageTokens, question: Question
) -> list[tuple[float, bool]]:
    """Log-prob of each choice and its end alone after its question, and whether all of it is greedy."""
    config, words = model.config, model.config.vocabulary
    text = engine.text.encode(config.vqa_prompt.format(question=question.question))
    features = None
    if config.w_clip_vit:
        shape = (1, config.clip_tokens, config.clip_size)
        features = torch.from_numpy(np.frombuffer(image.features, "<f4").reshape(shape).copy())
        prompt = words.feature_prompt(config.system_ids, config.clip_tokens, text)
    else:
        prompt = words.mmu_prompt(image.codes, text)
    found = []
    for choice in question.choices:
        tail = [*engine.text.encode(choice), words.eos]
        ids = torch.tensor([[*prompt, *tail]])
        mask = (
            feature_mask(ids.shape[1], config.image_start, config.clip_tokens)
            if config.w_clip_vit
            else mmu_mask(ids, words.eoi)
        )
        with torch.no_grad():
            hidden = model(ids, mask, features=features)[0, len(prompt) - 1 : -1]
            logp = model.head(hidden).log_softmax(-1)
        wanted = torch.tensor(tail)
        found.append((logp.gather(-1, wanted[:, None]).sum().item(), bool((logp.argmax(-1) == wanted).all())))
    return found


def check_likelihoods(
    engine: Engine, model: Showo, images: list[ImageTokens], questions: list[list[Question]]
) -> None:
    worst = 0.0
    answers = engine.answer(images, questions, LIKELIHOOD)
    assert [len(row) for row in answers] == [len(row) for row in questions]
    for image, asked, told in zip(images, questions, answers, strict=True):
        for question, answer in zip(asked, told, strict=True):
            wanted = [logp for logp, _ in dense_choices(engine, model, image, question)]
            # Of each token summed: processors round a sum of float32 log-probs differently.
            reads = [len(engine.text.encode(choice)) + 1 for choice in question.choices]
            found = zip(answer.choice_logps, wanted, reads, strict=True)
            worst = max(worst, *(abs(a - b) / count for a, b, count in found))
            assert answer.text == question.choices[int(np.argmax(wanted))]
    print(f"largest difference of a log-prob: {worst:.1e}")
    assert worst < TOLERANCE


def test_likelihoods_of_choices_are_the_training_models(
    engine: Engine, model: Showo, images: list[ImageTokens], questions: list[list[Question]]
) -> None:
    check_likelihoods(engine, model, images[:3], questions)


def test_an_image_is_answered_alike_alone_and_among_others(
    engine: Engine, images: list[ImageTokens], questions: list[list[Question]]
) -> None:
    together = engine.answer(images[:3], questions, LIKELIHOOD)
    for image, asked, told in zip(images, questions, together, strict=False):
        (alone,) = engine.answer([image], [asked], LIKELIHOOD)
        # To the last bit: likelihoods break ties, and must not depend on what else was asked.
        assert alone == told


def test_small_passes_give_what_large_ones_give(model: Showo, images: list[ImageTokens]) -> None:
    words = model.config.vocabulary
    seen = [
        ImageQuestions.of(
            Prefix(words.mmu_prefix(image.codes)),
            [TokenizedQuestion((words.bos, 3, 4), ((1,), (2, 5)))] * (i % 3),
        )
        for i, image in enumerate(images)
    ]
    large, small = read_choices(model, seen), read_choices(model, seen, tokens=1)
    for one, other in zip(large, small, strict=True):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert [c.logp for c in a] == pytest.approx([c.logp for c in b], abs=TOLERANCE)
            assert [c.greedy for c in a] == [c.greedy for c in b]


def some_seen(model: Showo, count: int) -> list[ImageQuestions]:
    """Images with no question to three, whose texts and choices differ in number and length."""
    config, words, draw = model.config, model.config.vocabulary, np.random.default_rng(4)

    def ids(most: int) -> tuple[int, ...]:
        return tuple(draw.integers(1, config.text_vocab_size - 1, draw.integers(1, most)).tolist())

    found = []
    for number in range(count):
        asks = [
            TokenizedQuestion((3, *ids(5)), tuple(ids(5) for _ in range(i + number % 2)))
            for i in range(number % 4)
        ]
        codes = draw.integers(0, config.codebook_size, config.num_image_tokens).tolist()
        prefix, features = words.mmu_prefix(codes), None
        if config.w_clip_vit:
            prefix = words.feature_prompt(config.system_ids, config.clip_tokens, ())
            features = torch.from_numpy(draw.normal(size=(config.clip_tokens, config.clip_size))).float()
        found.append(ImageQuestions.of(Prefix(prefix, features), asks))
    return found


@torch.no_grad()
def one_choice_alone(
    model: Showo, seen: ImageQuestions, text: Sequence[int], choice: Sequence[int]
) -> ChoiceLogprob:
    """A choice after its question by one forward pass of the training model."""
    config, words = model.config, model.config.vocabulary
    ids = torch.tensor([[*seen.prefix.ids, *text, *choice]])
    length = ids.shape[1]
    features = None if seen.prefix.features is None else seen.prefix.features[None]
    mask = mmu_mask(ids, words.eoi)
    if config.w_clip_vit:
        mask = feature_mask(length, config.image_start, config.clip_tokens)
    logp = model.head(model(ids, mask, features=features)[0, length - len(choice) - 1 :]).log_softmax(-1)
    wanted = torch.tensor([*choice, words.eos])
    greedy = (logp.argmax(-1) == wanted).tolist()
    return ChoiceLogprob(logp.gather(-1, wanted[:, None]).sum().item(), tuple(greedy))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("tokens", [4096, 200, 1])
def test_a_dense_pass_and_a_flat_one_give_what_each_choice_is_given_alone(
    model: Showo, clip_checkpoints: tuple[Path, Path], clip: bool, tokens: int
) -> None:
    model = load_model(clip_checkpoints[0]) if clip else model
    images = some_seen(model, 16)
    dense, flat = (read_choices(model, images, tokens, dense=dense) for dense in (True, False))
    compared = 0
    for seen, *found in zip(images, dense, flat, strict=True):
        for ask, *rows in zip(seen.questions, *found, strict=True):
            for choice, *given in zip(ask.choices, *rows, strict=True):
                alone = one_choice_alone(model, seen, ask.text, choice)
                for one in given:
                    assert one.logp == pytest.approx(alone.logp, abs=TOLERANCE, rel=TOLERANCE)
                    assert one.greedy == alone.greedy
                compared += 1
    assert compared > 20


def test_free_text_is_the_same_with_drafts_and_without(
    engine: Engine, model: Showo, images: list[ImageTokens], ask: Asking
) -> None:
    """The greedy text itself is among the choices of every second question, so both ways are gone."""
    asked = ["what color is the circle?", "how many?", "is a square blue?"]
    plain = engine.answer(images, [[ask(one) for one in asked]] * len(images))
    offered = [
        [
            ask(one, "red", answer.text) if answer.text and i % 2 == 0 else ask(one, "red", "two")
            for i, (one, answer) in enumerate(zip(asked, row, strict=True))
        ]
        for row in plain
    ]
    drafted = engine.answer(images, offered)
    decoded = engine.answer(images, offered, DECODED)
    texts, others = ([[one.text for one in row] for row in rows] for rows in (drafted, decoded))
    assert texts == others
    for told, row in zip(texts, plain, strict=True):
        # A choice as long as a free text gives that room for its end.
        assert all(text.startswith(one.text) for text, one in zip(told, row, strict=True))
    assert all(len(one.choice_logps) == 2 for row in drafted for one in row)
    assert all(one.choice_logps == () for row in decoded for one in row)


def test_a_free_text_is_as_long_as_its_own_choices_whatever_else_is_asked(
    engine: Engine, images: list[ImageTokens], ask: Asking
) -> None:
    long = ask("how many?", "red " * 15, "two")
    short = ask("what color is the circle?", "red", "two")
    together = engine.answer(images, [[short, long]] * len(images), DECODED)
    alone = engine.answer(images, [[short]] * len(images), DECODED)
    assert [row[:1] for row in together] == alone
    assert max(len(engine.text.encode(row[0].text)) for row in alone) <= 8
    assert max(len(engine.text.encode(row[1].text)) for row in together) > 8


def test_passes_are_halved_where_memory_runs_out_and_the_choices_stay(
    model: Showo, images: list[ImageTokens], capsys: pytest.CaptureFixture[str]
) -> None:
    class Crowded(Showo):
        """Has no room for more than 150 tokens at a time."""

        def embed(self, ids: torch.Tensor) -> torch.Tensor:
            if ids.numel() > 150:
                raise torch.OutOfMemoryError
            return super().embed(ids)

    crowded = Crowded(model.config)
    crowded.load_state_dict(model.state_dict())
    seen = some_seen(model, 8)
    found = read_choices(crowded, seen, dense=True)
    assert "do not fit into the GPU's memory; going on with 128" in capsys.readouterr().err
    assert found == read_choices(model, seen, tokens=128, dense=True)
    with pytest.raises(torch.OutOfMemoryError):
        read_choices(crowded, seen, dense=True, halves=False)


def test_decoded_answers_are_those_of_vllms_own_decoding(
    engine: Engine, paged_engine: Engine, images: list[ImageTokens], ask: Asking
) -> None:
    """Of images with no question, with one that a choice settles, and with some that none does."""
    rows = [
        [],
        [ask("how many?", "two")],
        [ask("is a square blue?"), ask("what color is the circle?", "red")],
    ]
    questions = [rows[i % 3] for i in range(len(images))]
    for settings in (DECODED, AnswerSettings()):
        mine, theirs = (
            [[one.text for one in row] for row in served.answer(images, questions, settings)]
            for served in (engine, paged_engine)
        )
        assert mine == theirs
    assert len({text for row in mine for text in row}) > 2


def test_a_question_without_choices_has_no_likeliest(
    engine: Engine, images: list[ImageTokens], ask: Asking
) -> None:
    with pytest.raises(EngineError, match="has no choices to compare"):
        engine.answer(images[:1], [[ask("how many?")]], LIKELIHOOD)


def test_a_choice_that_does_not_fit_is_refused(
    engine: Engine, images: list[ImageTokens], ask: Asking
) -> None:
    with pytest.raises(EngineError, match="exceed the model's 96 positions"):
        engine.answer(images[:1], [[ask("how many?", "two", "red " * 60)]])
    with pytest.raises(EngineError, match="the choice '' of 'how many\\?' has no token"):
        engine.answer(images[:1], [[ask("how many?", "two", "")]])


@pytest.mark.parametrize(
    ("greedy", "choice"),
    [
        ([(True, False), (True, True)], 1),
        ([(True, False), (False, True)], None),
        ([(True,) * 11 + (False,), (True,) * 12], 1),
        ([(True,) * 11 + (False,), (True, False)], None),
    ],
)
def test_a_choice_is_the_answer_that_is_greedy_to_its_end_however_long(
    ask: Asking, greedy: list[tuple[bool, ...]], choice: int | None
) -> None:
    question = ask("how many?", "U.S.A", "U.S.A.")
    chosen = [ChoiceLogprob(logp=-1.0, greedy=one) for one in greedy]
    found = answer_from_choices(question, chosen, AnswerSettings())
    assert (found and found.choice) == choice
    if found is not None:
        # A similarity of texts that differ by a dot must not decide again.
        assert matched([question], [found], Unasked()) == (question.choices[choice],)


class Unasked:
    """A similarity that must not be asked."""

    name = "unasked"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        raise AssertionError(texts)


def test_a_free_text_has_room_for_every_choice_and_its_end() -> None:
    assert answer_room(ShowoConfig(), [(1, 2), (1,) * 11]) == 12
    assert answer_room(ShowoConfig(), [(1, 2)]) == answer_room(ShowoConfig(), []) == 8
    assert answer_room(ShowoConfig(**msgspec.structs.asdict(official_wording())), []) == 100


def test_choices_are_named_as_the_official_script_names_them(ask: Asking) -> None:
    config = ShowoConfig(**msgspec.structs.asdict(official_wording()))
    question = ask("What color is the cube?", "red", "green", "blue", "yellow")
    named = "USER: \nQuestion:What color is the cube? Choice:['red', 'green', 'blue', 'yellow'] ASSISTANT:"
    plain = "USER: \nWhat color is the cube? ASSISTANT:"
    assert format_question(config, question, AnswerSettings()) == named
    assert format_question(config, question, AnswerSettings(name_choices=False)) == plain
    assert format_question(config, ask("What color is the cube?"), AnswerSettings()) == plain
    config.vqa_choices_prompt = ""
    assert format_question(config, question, AnswerSettings()) == plain


@pytest.fixture(scope="module")
def clip_engine(clip_checkpoints: tuple[Path, Path]) -> Iterator[Engine]:
    """The variant that sees CLIP features."""
    from engine.serving.engine import Engine

    with Engine(clip_checkpoints[0], kv_cache_gib=0.125) as served:
        yield served


def test_likelihoods_with_clip_features_are_the_training_models(
    clip_engine: Engine, clip_checkpoints: tuple[Path, Path], questions: list[list[Question]]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    check_likelihoods(clip_engine, load_model(clip_checkpoints[0]), clip_engine.encode(pixels), questions)
