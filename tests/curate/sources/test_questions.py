"""Which questions of a row can be scored; the others are left out with a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from data_sets import QUESTION
from hypothesis import given
from hypothesis import strategies as st

from curate.answers import normalised
from curate.sources.fields import make_rows, read_questions

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["question", "choices", "answer", "Options", "Answer", "A", "kind"]), inner
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"answer": "maybe"}, "the answer is not among the choices: 'maybe': 'is it red?'"),
        ({"answer": None}, "the answer is missing: 'is it red?'"),
        ({"answer": True}, "the answer is not text but True: 'is it red?'"),
        ({"choices": ["yes", " "]}, "a choice is empty: 'is it red?'"),
        ({"choices": ["yes", None]}, "a choice is missing: 'is it red?'"),
        ({"choices": ["yes", "Yes "]}, "fewer than two distinct choices"),
        ({"choices": []}, "fewer than two distinct choices"),
        ({"choices": "yes, no"}, "a question has no list of choices: 'is it red?'"),
        ({"question": ""}, "a question is empty"),
    ],
)
def test_a_question_that_cannot_be_scored_is_left_out_and_the_others_stay(
    changes: dict[str, Any], words: str
) -> None:
    other = {**QUESTION, "question": "is it round?"}
    kept, dropped = read_questions([{**QUESTION, **changes}, other])
    assert [one.question for one in kept] == ["is it round?"]
    assert len(dropped) == 1
    assert words in dropped[0]


@pytest.mark.parametrize(
    "written",
    [
        [QUESTION],
        json.dumps([QUESTION]),
        {name: [value] for name, value in QUESTION.items()},
        [
            {
                "Question": "is it red?",
                "Options": {"A": "yes", "B": "no"},
                "Answer": "A",
                "element_type": "color",
            }
        ],
        [{**QUESTION, "choices": [" yes", "no", "YES"], "answer": "Yes"}],
    ],
)
def test_every_way_of_writing_a_question_is_read(written: object) -> None:
    (question,), dropped = read_questions(written)
    assert (question.question, question.choices, question.answer, question.kind) == (
        "is it red?",
        ("yes", "no"),
        "yes",
        "color",
    )
    assert not dropped


def test_bare_numbers_are_choices() -> None:
    (question,), _ = read_questions([{"question": "how many?", "choices": [1, 2, 3], "answer": 2}])
    assert (question.choices, question.answer, question.kind) == (("1", "2", "3"), "2", "other")


def test_a_question_asked_twice_is_kept_once() -> None:
    kept, dropped = read_questions([QUESTION, QUESTION])
    assert len(kept) == 1
    assert "asked twice" in dropped[0]


@given(ANYTHING)
def test_what_is_kept_of_anything_can_be_scored(written: object) -> None:
    kept, dropped = read_questions(written)
    for one in kept:
        assert one.answer in one.choices
        assert len({normalised(choice) for choice in one.choices}) == len(one.choices) >= 2
        assert all(text.strip() for text in (one.question, one.kind, *one.choices))
    assert all(len(reason.splitlines()) == 1 for reason in dropped)


@pytest.mark.parametrize(
    ("fields", "kept", "reason"),
    [
        (QUESTION, 1, ""),
        ({"question": "is it red?", "options": {"A": "yes", "B": "no"}, "answer": "A"}, 1, ""),
        ({"question": "is it red?", "answer": "yes"}, 0, "a question has no list of choices: 'is it red?'"),
        ({"question": "Describe the picture."}, 0, ""),
        ({"questions": "is it red?"}, 0, "questions are text that is no JSON: 'is it red?'"),
        ({"questions": "[" * 100_000}, 0, "questions are text that is no JSON"),
        ({"questions": ["is it red?"]}, 0, "a question is not an object: 'is it red?'"),
    ],
)
def test_a_question_may_stand_among_the_fields_of_its_row(
    fields: dict[str, Any], kept: int, reason: str
) -> None:
    (row,) = make_rows(0, "here", {"image": "a.png", "caption": "red", **fields})
    assert row.item is not None
    assert len(row.item.questions) == kept
    assert [one.startswith(reason) for one in row.dropped] == [True] * bool(reason)
