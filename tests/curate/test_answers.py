"""What an answer means: its own text first, then its letter, then an index that can be nothing else."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.answers import distinct, named_choice, normalised, same_choice
from curate.questions.validation import checked
from curate.scoring.self_vqa import match_choice
from curate.scoring.similarity import load_similarity
from curate.sources.fields import read_questions
from engine.records import Question

KING, DRIVES = {"A": "B. B. King", "B": "Elvis"}, {"A": "C: drive", "B": "D: drive", "C": "other"}
COLORS = ["red", "blue"]


@pytest.mark.parametrize(
    ("choices", "answer", "meant"),
    [
        (KING, "B. B. King", "B. B. King"),
        (KING, "B", "Elvis"),
        (DRIVES, "C: drive", "C: drive"),
        (DRIVES, "C", "other"),
        ({"A": "red", "B": "blue"}, "(B) blue", "blue"),
        ({"A": "red", "B": "blue"}, "B - blue", "blue"),
        ({"A": "red", "B": "blue"}, "B: Blue.", "blue"),
        ({"a": "red", "b": "blue"}, "B", "blue"),
        ({"A": "red", "B": None, "C": "blue"}, "C", "blue"),
        ({"1": "red", "2": "blue"}, 2, "blue"),
        (COLORS, "B", "blue"),
        (COLORS, "b)", "blue"),
        (COLORS, 1, "blue"),
        (["red", "Red", "blue"], "C", "blue"),
        (["A: red", "B: blue"], "B", "B: blue"),
        (["B: blue", "A: red"], "B", "B: blue"),
        (["A", "B", "C"], "B", "B"),
        (["B", "A"], "A", "A"),
        (["2", "1", "3"], 1, "1"),
        (["cafe\u0301", "tea"], "caf\u00e9", "cafe\u0301"),
        (["dark  red", "blue"], "dark red", "dark  red"),
        (["two dogs", "The cat"], "2 dogs", "two dogs"),
    ],
)
def test_an_answer_means_its_choice(choices: Any, answer: object, meant: str) -> None:
    (question,), dropped = read_questions([{"question": "which?", "choices": choices, "answer": answer}])
    assert question.answer == meant
    assert not dropped


@pytest.mark.parametrize(
    ("choices", "answer"),
    [
        (KING, "B. King"),
        ({"A": "red", "B": "blue"}, "B: red"),
        (COLORS, "C"),
        (COLORS, "1"),
        (COLORS, 2),
        (COLORS, -1),
        (["one dog", "two dogs"], 1),
        (["10", "20"], 1),
        (["Messi", "Neymar", "Pele"], "C. Ronaldo"),
    ],
)
def test_what_names_no_choice_for_certain_is_left_out(choices: Any, answer: object) -> None:
    kept, (reason,) = read_questions([{"question": "which?", "choices": choices, "answer": answer}])
    assert not kept
    assert reason.startswith("the answer is not among the choices: ")


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6), st.data())
def test_a_choices_own_text_is_that_choice_however_its_accents_are_stored(
    choices: list[str], data: st.DataObject
) -> None:
    chosen = data.draw(st.sampled_from(choices))
    for text in (chosen, unicodedata.normalize("NFD", chosen), unicodedata.normalize("NFC", chosen)):
        found = named_choice(text, choices)
        assert found == same_choice(chosen, choices)
        assert found in distinct(choices)
        assert normalised(found or "") == normalised(chosen)


def test_files_and_models_answers_are_equal_by_the_same_rule() -> None:
    asked = Question(question="which?", choices=("B. B. King", "Elvis"), answer="B", kind="other")
    found = checked(asked)
    assert isinstance(found, Question)
    assert found.answer == "Elvis"
    similarity = load_similarity("minilm")
    assert match_choice("The caf\u00e9!", ("cafe\u0301", "tea"), similarity) == "cafe\u0301"


@pytest.mark.parametrize(
    "choices",
    [("5", "-5", "10"), ("C", "C++", "C#"), ("15", "1,5", "2"), ("5", "5%", "50"), ("> 5", "< 5", "= 5")],
)
def test_marks_that_tell_answers_apart_stay(choices: tuple[str, ...]) -> None:
    assert distinct(choices) == choices
    assert [named_choice(one, choices) for one in choices] == list(choices)
