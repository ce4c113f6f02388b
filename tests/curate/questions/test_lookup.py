"""Questions from a file for the items of a data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from curate.config import CurateConfig
from curate.questions import validation
from curate.questions.lookup import questions_digest, questions_from, with_questions
from curate.questions.tifa import TifaQuestion, write_tifa
from engine.errors import ConfigError, DataError
from engine.records import Item, Question

RED = Question(question="is it red?", choices=("yes", "no"), answer="yes", kind="color", element="red")
CUBE = Question(
    question="what is it?", choices=("cube", "ball"), answer="cube", kind="object", element="cube"
)
BAD = Question(question="is it?", choices=("yes", "no"), answer="maybe", kind="other")


def row(name: str | int, caption: str, question: Question) -> TifaQuestion:
    return TifaQuestion(id=name, caption=caption, question=question)


def item(name: str, caption: str, *questions: Question) -> Item:
    return Item(id=name, caption=caption, questions=questions)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "questions.json"
    rows = [
        row("1", "a red cube", RED),
        row(2, "a ball", CUBE),
        row(3, "", RED),
        row("1", "a red cube", BAD),
        row("9", "a red  cube", CUBE),
        row("9", "a red  cube", RED),
    ]
    write_tifa(path, rows)
    return path


def test_an_item_is_found_by_its_id_else_by_its_caption(file: Path) -> None:
    lookup = questions_from(file)
    assert lookup.of(item("1", "a red cube")) == (RED,)
    assert lookup.of(item("2", "a ball")) == (CUBE,)
    assert lookup.of(item("3", "anything")) == (RED,)
    assert lookup.of(item("new", "a red cube")) == (RED, CUBE)
    assert lookup.of(item("new", "a house")) == ()
    assert lookup.rejected == {validation.ASTRAY: 1}


def test_an_id_with_another_caption_is_another_data_sets(file: Path) -> None:
    lookup = questions_from(file)
    assert lookup.of(item("1", "a house")) == ()
    assert lookup.of(item("2", "a red cube")) == (RED, CUBE)


def test_the_files_questions_replace_an_items_own_or_follow_them(file: Path) -> None:
    lookup = questions_from(file)
    one = item("9", "a red cube", RED)
    assert with_questions(one, lookup, combine=False).questions == (CUBE, RED)
    assert with_questions(one, lookup, combine=True).questions == (RED, CUBE)
    unknown = item("8", "a house", RED)
    assert with_questions(unknown, lookup, combine=False).questions == ()
    assert with_questions(unknown, lookup, combine=True).questions == (RED,)


def test_the_content_of_the_file_decides_a_curation_and_its_name_does_not(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(file.read_bytes())
    assert questions_digest("", False) == ""
    assert (
        questions_digest(str(file), False)
        == questions_digest(str(copy), False)
        != questions_digest(str(copy), True)
    )
    copy.write_bytes(file.read_bytes() + b"\n")
    assert questions_digest(str(file), False) != questions_digest(str(copy), False)
    with pytest.raises(DataError, match="cannot be read"):
        questions_digest(str(tmp_path / "nowhere"), False)


def test_combining_with_no_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set curate\.questions"):
        CurateConfig(combine_questions=True)
