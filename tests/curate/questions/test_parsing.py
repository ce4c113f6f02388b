"""What a language model wrote, read strictly in both styles."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from generator_text import generator_text
from hypothesis import given
from hypothesis import strategies as st

from curate.questions.parsing import (
    ASTRAY,
    CUT_SHORT,
    MALFORMED,
    MOST_CHOICES,
    NO_CHOICES,
    NOTHING,
    TOO_MANY,
    UNKNOWN,
    UNNAMED,
    Style,
    parse,
)
from curate.questions.prompting import written
from curate.questions.tifa import TYPES, stored_kind
from engine.records import Question

STYLES = get_args(Style)
WORDS = st.text("abcXYZ019 '.?-()/ é猫", min_size=1, max_size=20).map(str.strip).filter(bool)
NAMES = WORDS.filter(lambda name: not name.endswith(")"))
QUESTIONS = st.builds(
    Question,
    question=WORDS,
    choices=st.lists(WORDS, min_size=1, max_size=5).map(tuple),
    answer=WORDS,
    kind=st.sampled_from(TYPES).map(stored_kind),
    element=NAMES,
)
SCRAPS = [
    "About dog (animal):", "About", "Q: is it?", "Q:", "Choices: yes, no", "Choices:", "A: yes", "A:",
    "Element: dog (animal):", "Question: is it?", "Choices: yes | no", "Answer: yes", "Answer:", "", "\t",
]  # fmt: skip

TIFA_TEXT = """ rabbit, plane
Activities:
Colors: blue, red
Counting:
Other attributes:
Questions and answers are below:
About rabbit (animal):
Q: is there a rabbit?
Choices: yes, no
A: yes
About blue (color):
Q: what color is the rabbit?
Choices:blue, red, yellow
A: blue"""


@pytest.mark.parametrize("style", STYLES)
@given(
    text=st.one_of(
        st.text(), st.lists(st.one_of(st.sampled_from(SCRAPS), st.text(max_size=8))).map("\n".join)
    )
)
def test_no_text_makes_the_parser_fail(style: Style, text: str) -> None:
    found = parse(style, text)
    assert found.questions or found.problems
    assert all(one.kind and one.element for one in found.questions)


@given(questions=st.lists(QUESTIONS, min_size=1, max_size=6))
def test_the_generators_questions_are_read_as_they_were_written(questions: list[Question]) -> None:
    text = generator_text(questions)
    found = parse("tifa", text)
    assert list(found.questions) == questions
    assert not found.problems
    # TIFA's prompt ends with the first heading, so that is not in what its model writes.
    assert parse("tifa", text.removeprefix("Entities:")) == found


def as_json(questions: list[Question]) -> str:
    return written((one.element, one.kind, one.question, one.choices, one.answer) for one in questions)


@given(
    questions=st.lists(QUESTIONS, min_size=1, max_size=6),
    before=st.sampled_from(["", "```json\n", "{Sure!} "]),
)
def test_json_is_read_as_it_was_written_whatever_stands_around(
    questions: list[Question], before: str
) -> None:
    found = parse("instruct", f"{before}{as_json(questions)}\n```")
    assert list(found.questions) == questions
    assert not found.problems


@given(questions=st.lists(QUESTIONS, min_size=1, max_size=4), share=st.floats(0, 1))
def test_json_cut_anywhere_gives_only_whole_questions(questions: list[Question], share: float) -> None:
    text = as_json(questions)
    found = parse("instruct", text[: int(share * len(text))])
    assert list(found.questions) == questions[: len(found.questions)]
    assert not set(found.problems) - {NOTHING}


def test_the_generators_output_is_read_with_its_elements_and_types() -> None:
    rabbit, blue = parse("tifa", TIFA_TEXT).questions
    assert rabbit == Question(
        question="is there a rabbit?",
        choices=("yes", "no"),
        answer="yes",
        kind="animal/human",
        element="rabbit",
    )
    assert (blue.kind, blue.element, blue.choices) == ("color", "blue", ("blue", "red", "yellow"))


@pytest.mark.parametrize("cut", range(0, len(TIFA_TEXT), 7))
def test_a_text_cut_anywhere_gives_only_whole_questions(cut: int) -> None:
    found = parse("tifa", TIFA_TEXT[:cut])
    whole = parse("tifa", TIFA_TEXT).questions
    assert len(found.questions) == TIFA_TEXT[:cut].count("\nA:")
    for one, other in zip(found.questions, whole, strict=False):
        assert (one.question, one.choices) == (other.question, other.choices)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("About dog (animal):\nQ: is it?\nA: yes", NO_CHOICES),
        ("About dog (animal):\nQ: is it?\nChoices: yes, no", CUT_SHORT),
        ("About dog (animal):\nQ: is it?\nSure!\nChoices: yes, no\nA: yes", ASTRAY),
        ("About dog (animal):\nQ: is it?\nChoices: a, b\nChoices: c, d\nA: a", ASTRAY),
        ("About dog (beast):\nQ: is it?\nChoices: yes, no\nA: yes", UNKNOWN),
        ("About dog:\nQ: is it?\nChoices: yes, no\nA: yes", UNKNOWN),
        ("Q: is it?\nChoices: yes, no\nA: yes", UNNAMED),
        (f"About dog (animal):\nQ: is it?\nChoices: {', '.join(['x'] * (MOST_CHOICES + 1))}\nA: x", TOO_MANY),
        ("I am sorry, I cannot do that.", NOTHING),
        ("", NOTHING),
    ],
)
def test_a_block_that_is_no_question_has_its_reason(lines: str, reason: str) -> None:
    good = "About cat (animal):\nQ: is it a cat?\nChoices: yes, no\nA: yes"
    assert parse("tifa", lines).problems == (reason,)
    assert not parse("tifa", lines).questions
    if reason != NOTHING:
        after = parse("tifa", f"{lines}\n{good}")
        assert [one.question for one in after.questions] == ["is it a cat?"]
        assert after.problems == (reason,)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"choices": []}, NO_CHOICES),
        ({"choices": ["x"] * (MOST_CHOICES + 1)}, TOO_MANY),
        ({"element": ""}, UNNAMED),
        ({"type": "beast"}, UNKNOWN),
        ({"answer": None}, MALFORMED),
        ({"choices": "yes, no"}, MALFORMED),
        ({"question": 1}, MALFORMED),
        ({"question": "\ud800"}, MALFORMED),
    ],
)
def test_an_object_that_is_no_question_has_its_reason(wrong: dict[str, object], reason: str) -> None:
    good = {"element": "cat", "type": "animal", "question": "is it?", "choices": ["1", 2], "answer": 2}
    found = parse("instruct", json.dumps({"questions": [good | wrong, good]}))
    assert found.problems == (reason,)
    assert [(one.choices, one.answer) for one in found.questions] == [(("1", "2"), "2")]
