"""What a language model wrote, read strictly in both styles."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.questions.layout import LAYOUTS, Style, written
from curate.questions.parsing import (
    ASTRAY,
    CUT_SHORT,
    MOST_CHOICES,
    NO_CHOICES,
    NOTHING,
    TOO_MANY,
    UNKNOWN,
    UNNAMED,
    parse,
)
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


@pytest.mark.parametrize("style", STYLES)
@given(questions=st.lists(QUESTIONS, min_size=1, max_size=6))
def test_questions_are_read_as_they_were_written(style: Style, questions: list[Question]) -> None:
    text = written(style, questions)
    found = parse(style, text)
    assert list(found.questions) == questions
    assert not found.problems
    # TIFA's prompt ends with the first heading, so that is not in what its model writes.
    assert parse(style, text.removeprefix(LAYOUTS[style].headings[0][0])) == found


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
        ("Element: dog (animal):\nQuestion: is it?\nAnswer: yes", NO_CHOICES),
        ("Element: dog (animal):\nQuestion: is it?\nChoices: yes | no", CUT_SHORT),
        ("Element: dog (animal):\nQuestion: is it?\nSure!\nChoices: yes | no\nAnswer: yes", ASTRAY),
        ("Element: dog (animal):\nQuestion: is it?\nChoices: a | b\nChoices: c | d\nAnswer: a", ASTRAY),
        ("Element: dog (beast):\nQuestion: is it?\nChoices: yes | no\nAnswer: yes", UNKNOWN),
        ("Element: dog:\nQuestion: is it?\nChoices: yes | no\nAnswer: yes", UNKNOWN),
        ("Question: is it?\nChoices: yes | no\nAnswer: yes", UNNAMED),
        (
            f"Element: dog (animal):\nQuestion: is it?\nChoices: {' | '.join(['x'] * (MOST_CHOICES + 1))}\n"
            "Answer: x",
            TOO_MANY,
        ),
        ("I am sorry, I cannot do that.", NOTHING),
        ("", NOTHING),
    ],
)
def test_a_block_that_is_no_question_has_its_reason(lines: str, reason: str) -> None:
    good = "Element: cat (animal):\nQuestion: is it a cat?\nChoices: yes | no\nAnswer: yes"
    assert parse("instruct", lines).problems == (reason,)
    assert not parse("instruct", lines).questions
    if reason != NOTHING:
        after = parse("instruct", f"{lines}\n{good}")
        assert [one.question for one in after.questions] == ["is it a cat?"]
        assert after.problems == (reason,)
