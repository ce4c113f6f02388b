"""TIFA's JSON: read in all its spellings, written as v1.0 and its scorer want it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.questions.tifa import TYPES, TifaQuestion, from_item, read_tifa, stored_kind, write_tifa
from curate.shapes import world
from engine.errors import DataError
from engine.records import Question

ROW = {
    "id": "coco_1",
    "caption": "a surfer on a beach",
    "question": "is this a surfer?",
    "choices": ["yes", "no"],
    "answer": "yes",
    "answer_type": "animal/human",
    "element": "surfer",
    "coco_val_id": "380711",
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
QUESTIONS = st.builds(
    Question,
    question=TEXTS,
    choices=st.lists(TEXTS, max_size=4).map(tuple),
    answer=TEXTS,
    kind=st.sampled_from(TYPES).map(stored_kind),
    element=TEXTS,
)
ROWS = st.builds(
    TifaQuestion,
    id=st.one_of(TEXTS, st.integers(0, 2**40)),
    caption=TEXTS.map(lambda text: text + "."),
    question=QUESTIONS,
    extra=st.dictionaries(st.sampled_from(["coco_val_id", "img_path"]), st.one_of(TEXTS, st.integers(0, 9))),
)


def stored(folder: Path, content: str | list[Any]) -> Path:
    path = folder / "questions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@given(rows=st.lists(ROWS, min_size=1, max_size=5))
def test_what_is_written_is_read_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[TifaQuestion]
) -> None:
    path = tmp_path_factory.mktemp("tifa") / "questions.json"
    write_tifa(path, rows)
    found = read_tifa(path)
    assert list(found.rows) == rows
    assert not found.bad


@given(text=st.one_of(st.text(), st.text('[]{}",:\\u d8a\n0e9N-', max_size=60)))
def test_any_file_is_read_or_refused_with_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("tifa") / "questions.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError):
        read_tifa(path)


def test_a_row_has_v1_fields_in_their_order_and_the_type_where_the_scorer_looks(tmp_path: Path) -> None:
    path = stored(tmp_path, [ROW])
    write_tifa(path, read_tifa(path).rows)
    (row,) = json.loads(path.read_text())
    assert list(row) == [
        "id", "caption", "question", "choices", "answer",
        "answer_type", "element_type", "element", "coco_val_id",
    ]  # fmt: skip
    assert row["answer_type"] == row["element_type"] == "animal/human"
    assert {**row, **ROW} == row


def test_both_names_of_the_type_are_the_same(tmp_path: Path) -> None:
    other = {("element_type" if name == "answer_type" else name): value for name, value in ROW.items()}
    one, two = read_tifa(stored(tmp_path, [ROW, other])).rows
    assert one == two
    assert one.question.kind == "animal/human"


def test_numbers_and_missing_fields_are_taken_as_the_official_scripts_leave_them(tmp_path: Path) -> None:
    bare = {
        "id": 7,
        "caption": "c",
        "question": "how many?",
        "choices": [1, 2],
        "answer": 2,
        "img_path": "a.png",
    }
    (row,) = read_tifa(stored(tmp_path, [bare])).rows
    assert row.id == 7
    assert row.question == Question(question="how many?", choices=("1", "2"), answer="2", kind="other")
    assert row.extra == {"img_path": "a.png"}


@pytest.mark.parametrize("content", ["{0},\n{0},\n", "[{0},{0},]", "{0}\n{0}\n", "\ufeff[\n  {0},\n  {0}\n"])
def test_arrays_that_scripts_left_open_are_read(tmp_path: Path, content: str) -> None:
    found = read_tifa(stored(tmp_path, content.replace("{0}", json.dumps(ROW))))
    assert len(found.rows) == 2
    assert not found.bad


def test_bad_rows_are_told_and_the_rest_is_read(tmp_path: Path) -> None:
    good = json.dumps(ROW)
    rows = [
        good,
        '{"id": "torn", "question": ',
        good,
        '{"id": "x", "question": "is it?", "choices": "yes, no", "answer": "yes"}',
        '{"question": "is it?", "choices": ["yes", "no"], "answer": "yes"}',
        '{"id": "x", "question": "\\ud800?", "choices": ["yes", "no"], "answer": "yes"}',
        '"text"',
        '{"a":' * 100_000,
        good,
    ]
    found = read_tifa(stored(tmp_path, "[" + ",\n".join(rows) + "]"))
    assert len(found.rows) == 3
    told = " ".join(found.bad)
    for words in (
        "row 2: the object has no end",
        "row 4: Expected `array`",
        "neither an id nor a caption",
        "not a JSON object",
    ):
        assert words in told
    assert "row 6: 'utf-8'" in told


def test_a_file_without_a_question_is_an_error_with_the_first_problem(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1: not a JSON object"):
        read_tifa(stored(tmp_path, "[1]"))
    with pytest.raises(DataError, match="cannot be read"):
        read_tifa(tmp_path / "nowhere.json")


def test_the_rule_made_questions_of_the_embedded_world_survive_the_format(tmp_path: Path) -> None:
    items = [world.item("train", 0, index)[0] for index in range(12)]
    path = tmp_path / "shapes.json"
    write_tifa(path, (row for item in items for row in from_item(item, item.questions)))
    rows = read_tifa(path).rows
    for item in items:
        assert tuple(row.question for row in rows if row.id == item.id) == item.questions
