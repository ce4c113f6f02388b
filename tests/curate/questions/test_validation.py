"""Which questions may be asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.answers import normalised
from curate.questions import validation
from curate.questions.validation import answered, checked, identity, read_choice, sifted
from engine.records import Question

TEXTS = st.one_of(
    st.text(max_size=15), st.sampled_from(["yes", "Yes.", "no", "two", "2", "the dog", "a dog", "", "  "])
)
QUESTIONS = st.builds(
    Question,
    question=TEXTS,
    choices=st.lists(TEXTS, max_size=5).map(tuple),
    answer=TEXTS,
    kind=st.just("object"),
    element=TEXTS,
)


def question(
    text: str = "is it red?", choices: tuple[str, ...] = ("yes", "no"), answer: str = "yes"
) -> Question:
    return Question(question=text, choices=choices, answer=answer, kind="color", element="red")


@given(questions=st.lists(QUESTIONS, max_size=8))
def test_what_passes_can_be_asked_and_passes_again_and_all_are_counted(questions: list[Question]) -> None:
    found = sifted(questions)
    for one in found.kept:
        assert one.question.strip()
        assert one.answer in one.choices
        assert len({normalised(choice) for choice in one.choices}) == len(one.choices) >= 2
        assert all(choice.strip() for choice in one.choices)
        assert checked(one) == one
    assert len({identity(one) for one in found.kept}) == len(found.kept)
    assert len(found.kept) + sum(found.rejected.values()) == len(questions)
    assert sifted(found.kept).kept == found.kept


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (question(text=" \n"), validation.EMPTY),
        (question(choices=("yes", " ")), validation.EMPTY_CHOICE),
        (question(choices=("yes", "Yes!")), validation.ONE_CHOICE),
        (question(choices=("two", "2"), answer="2"), validation.ONE_CHOICE),
        (question(choices=()), validation.ONE_CHOICE),
        (question(answer="maybe"), validation.ASTRAY),
        (question(text="is it " + "very " * 100), validation.LONG),
        (question(choices=("yes", "no" * 100)), validation.LONG),
    ],
)
def test_what_cannot_be_asked_has_its_reason(one: Question, reason: str) -> None:
    assert checked(one) == reason
    assert sifted([one, question()]).rejected == {reason: 1}


def test_an_answer_is_spelt_as_its_choice() -> None:
    found = checked(question(choices=("three dogs", "The cat"), answer="3 Dogs."))
    assert isinstance(found, Question)
    assert found.answer == "three dogs"


def test_the_same_question_with_other_choices_is_another_one() -> None:
    first, other = question(), question(choices=("yes", "no", "half"))
    found = sifted([first, question(text="Is it red", choices=("no", "yes")), other])
    assert found.kept == (first, other)
    assert found.rejected == {validation.TWICE: 1}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The dog", "dog."),
        ("Two", "2"),
        ("don't", "dont"),
        ("1,000", "1000"),
        ("ice-cream", "ice cream"),
        ("STRASSE", "straße"),
    ],
)
def test_texts_that_answers_do_not_tell_apart(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"), [("A", "The"), ("2.5", "25"), ("+", "-"), ("कि", "कु"), ("no", "not")]
)
def test_texts_that_answers_tell_apart(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_a_reader_must_say_a_choice_and_the_right_one() -> None:
    one = question(choices=("red", "dark red"), answer="red")
    for text in ("red", " Red.\n", "\nAnswer: red\nbecause", "the red"):
        assert answered(one, text), text
    for text in ("", "dark red", "it is red", "blue", "red | dark red"):
        assert not answered(one, text), text
    assert read_choice("dark RED", one.choices) == "dark red"
