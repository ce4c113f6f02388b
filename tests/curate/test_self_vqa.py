"""Free texts as choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curate.self_vqa import accuracy, compared, matched
from engine.records import Answer, Question

QUESTIONS = [
    Question(question="what color?", choices=("red", "dark blue"), answer="red", kind="color"),
    Question(question="is there a cube?", choices=("yes", "no"), answer="no", kind="existence"),
    Question(question="how many?", choices=("one", "two"), answer="two", kind="count"),
]


class Letters:
    """Texts as their counts of letters; remembers what it was asked for."""

    name = "letters"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        counts = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def test_equal_words_are_the_choice_and_others_the_nearest() -> None:
    similarity = Letters()
    answers = [Answer(text=" Bluedark ish."), Answer(text="No."), Answer(text="")]
    assert matched(QUESTIONS, answers, similarity) == ("dark blue", "no", "")
    assert accuracy(QUESTIONS, matched(QUESTIONS, answers, similarity)) == 1 / 3


def test_what_is_compared_is_known_beforehand() -> None:
    similarity = Letters()
    for texts in (["Bluedark", "no", "too"], ["", "nay", "Two"], ["red", "yes.", "one"]):
        answers = [Answer(text=text) for text in texts]
        similarity.asked.clear()
        matched(QUESTIONS, answers, similarity)
        assert sorted(similarity.asked) == sorted(compared(QUESTIONS, answers))
