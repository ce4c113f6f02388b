"""Free texts as choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from curate.scoring.self_vqa import accuracy, likelihood, matched
from engine.records import Answer, Question

QUESTIONS = [
    Question(question="what color?", choices=("red", "dark blue"), answer="red", kind="color"),
    Question(question="is there a cube?", choices=("yes", "no"), answer="no", kind="existence"),
    Question(question="how many?", choices=("one", "two"), answer="two", kind="count"),
]


class Letters:
    """Texts as their counts of letters."""

    name = "letters"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def test_equal_words_are_the_choice_and_others_the_nearest() -> None:
    similarity = Letters()
    answers = [Answer(text=" Bluedark ish."), Answer(text="No."), Answer(text="")]
    assert matched(QUESTIONS, answers, similarity) == ("dark blue", "no", "")
    assert accuracy(QUESTIONS, matched(QUESTIONS, answers, similarity)) == 1 / 3


def test_the_text_itself_comes_before_what_is_left_of_it() -> None:
    choices = ("U.S.A", "U.S.A.", "us")
    asked = [Question(question="where?", choices=choices, answer="us", kind="x")] * 4
    answers = [Answer(text="U.S.A."), Answer(text="U.S.A"), Answer(text="us."), Answer(text="us", choice=0)]
    assert matched(asked, answers, Letters()) == ("U.S.A.", "U.S.A", "us", "U.S.A")


LOGPS = st.floats(-300, 0)


@given(st.lists(st.tuples(LOGPS, LOGPS), min_size=3, max_size=3), st.floats(-50, 50))
def test_likelihood_is_the_mean_log_softmax_of_the_right_choices(
    logps: list[tuple[float, float]], shift: float
) -> None:
    right = [question.choices.index(question.answer) for question in QUESTIONS]
    expected = np.mean([log_softmax(row)[i] for row, i in zip(logps, right, strict=True)])
    answers = [Answer(text="", choice_logps=row) for row in logps]
    assert likelihood(QUESTIONS, answers) == pytest.approx(expected, abs=1e-4)
    moved = [Answer(text="", choice_logps=tuple(one + shift for one in row)) for row in logps]
    assert likelihood(QUESTIONS, moved) == pytest.approx(expected, abs=1e-4)


def test_differences_that_batches_make_are_no_likelihood() -> None:
    logps = [(-0.5, -1.5), (-2.0, -0.125), (-1.0, -1.0)]
    one, other = (
        likelihood(QUESTIONS, [Answer(text="", choice_logps=(a + noise, b)) for a, b in logps])
        for noise in (0.0, 2e-6)
    )
    assert one == other


@pytest.mark.parametrize("unread", [(), (float("-inf"), float("-inf"))])
def test_there_is_no_likelihood_unless_every_question_has_its_choices_read(unread: tuple[float, ...]) -> None:
    read = Answer(text="red", choice_logps=(-1.0, -2.0))
    assert likelihood(QUESTIONS, [read, read, Answer(text="two", choice_logps=unread)]) is None
    assert likelihood([], []) is None
    strange = Question(question="how many?", choices=("one", "two"), answer="three", kind="count")
    assert likelihood([strange], [read]) is None
