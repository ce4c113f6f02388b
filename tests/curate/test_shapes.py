"""The embedded world: deterministic, disjoint, balanced, and judged rightly by the oracle."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.scoring.self_vqa import accuracy
from curate.shapes import oracle, world
from curate.shapes.captions import CATEGORIES
from curate.shapes.questions import KINDS, read_question
from curate.shapes.scene import BACKGROUND, CANVAS, COLORS, SHAPES, Placed, Scene, render
from engine.files.layout import EMBEDDED_MODEL
from engine.records import Question
from engine.tokenizers.image import load_image_tokenizer, to_pixels, to_uint8

SPLITS = st.sampled_from(tuple(world.SPLITS))
INDICES = st.integers(0, 10**6)


@given(split=SPLITS, seed=st.integers(0, 99), index=INDICES)
@settings(max_examples=60)
def test_an_item_is_a_pure_function_of_split_seed_and_index(split: str, seed: int, index: int) -> None:
    first, scene = world.item(split, seed, index)
    assert world.item(split, seed, index) == (first, scene)
    assert (world.image_of(first.id) == render(scene)).all()


@given(split=SPLITS, seed=st.integers(0, 99), index=INDICES)
@settings(max_examples=100)
def test_a_scene_can_occur_in_its_own_split_alone(split: str, seed: int, index: int) -> None:
    assert world.split_of(world.item(split, seed, index)[1]) == split


def test_the_oracle_is_right_on_clean_renders() -> None:
    wrong = asked = 0
    for index in range(2000):
        item, scene = world.item("evaluation", 3, index)
        answers = oracle.judge(render(scene), item.questions)
        wrong += sum(a != q.answer for a, q in zip(answers, item.questions, strict=True))
        asked += len(answers)
        facts = world.image_facts(scene)
        assert facts.total == len(scene.objects)
    assert wrong / asked <= 0.001


def test_the_oracle_is_right_on_reconstructions_of_the_shipped_tokenizer() -> None:
    tokenizer = load_image_tokenizer(EMBEDDED_MODEL / "image_tokenizer")
    items = [world.item("evaluation", 4, index) for index in range(400)]
    pixels = to_pixels(torch.from_numpy(np.stack([render(scene) for _, scene in items])))
    images = to_uint8(tokenizer.decode(tokenizer.encode(pixels))).numpy()
    right = [
        answer == question.answer
        for (item, _), image in zip(items, images, strict=True)
        for answer, question in zip(oracle.judge(image, item.questions), item.questions, strict=True)
    ]
    assert np.mean(right) >= 0.98


def test_a_constant_answer_scores_at_chance_for_every_kind_of_question() -> None:
    answers: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for index in range(6000):
        for question in world.item("train", 8, index)[0].questions:
            assert question.answer in question.choices
            answers[question.kind, len(question.choices)][question.answer] += 1
    assert {kind for kind, _ in answers} == set(KINDS)
    for (_, choices), counts in answers.items():
        assert max(counts.values()) / sum(counts.values()) <= 1 / choices + 0.05


def test_every_category_and_object_count_occurs() -> None:
    items = [world.item("evaluation", 0, index)[0] for index in range(300)]
    assert {item.category for item in items} == set(CATEGORIES)
    assert {item.objects for item in items} == {1, 2, 3, 4}
    assert all(len(item.questions) >= 3 for item in items)
    assert all(read_question(q.question) for item in items for q in item.questions)


def scene_of(*objects: tuple[str, str, int, int]) -> Scene:
    return Scene(
        objects=tuple(
            Placed(shape=shape, color=color, size=12, left=16 * column + 1, top=16 * row + 1)
            for shape, color, row, column in objects
        )
    )


def ask(text: str, *choices: str) -> tuple[Question, ...]:
    return (Question(question=text, choices=choices, answer=choices[0], kind="existence"),)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("is there a red circle?", "yes"),
        ("is there a blue circle?", "no"),
        ("is there a triangle?", "no"),
        ("how many circles are there?", "one"),
        ("how many objects are there?", "two"),
        ("how many triangles are there?", "zero"),
        ("what color is the circle?", "red"),
        ("what color is the triangle?", None),
        ("what shape is the blue object?", "square"),
        ("what shape is shown?", None),
        ("where is the circle relative to the square?", "left"),
        ("is the circle left of the square?", "yes"),
        ("is the circle above the square?", "no"),
        ("is the circle above the triangle?", None),
    ],
)
def test_the_oracle_answers_what_it_sees(text: str, answer: str | None) -> None:
    image = render(scene_of(("circle", "red", 1, 0), ("square", "blue", 1, 2)))
    assert oracle.judge(image, ask(text, "yes", "no")) == (answer,)


def test_the_oracle_sees_nothing_on_an_empty_canvas() -> None:
    empty = np.full((CANVAS, CANVAS, 3), BACKGROUND, np.uint8)
    assert oracle.see(empty) == ()
    assert oracle.judge(empty, ask("what color is the circle?", "red")) == (None,)


def test_the_oracle_gives_no_name_to_smears() -> None:
    image = render(scene_of(("square", "red", 0, 0)))
    image[1:13, 7:13] = COLORS["blue"]
    assert [(one.shape, one.color) for one in oracle.see(image)] == [("square", None)]
    image[0:40, 20:24] = COLORS["green"]
    assert [one.shape for one in oracle.see(image)][-1] is None


@given(shape=st.sampled_from(SHAPES), color=st.sampled_from(tuple(COLORS)), noise=st.integers(0, 10**6))
@settings(max_examples=50)
def test_the_oracle_withstands_noise(shape: str, color: str, noise: int) -> None:
    image = render(scene_of((shape, color, 1, 1))).astype(int)
    image += np.random.default_rng(noise).integers(-20, 21, image.shape)
    seen = oracle.see(image.clip(0, 255).astype(np.uint8))
    assert [(one.shape, one.color) for one in seen] == [(shape, color)]


def test_a_question_outside_the_grammar_is_refused() -> None:
    empty = np.full((CANVAS, CANVAS, 3), BACKGROUND, np.uint8)
    with pytest.raises(ValueError, match="cannot read the question"):
        oracle.judge(empty, ask("is it art?", "yes"))


def test_accuracy_counts_no_answer_as_wrong() -> None:
    assert accuracy(ask("is there a circle?", "yes", "no"), (None,)) == 0.0
