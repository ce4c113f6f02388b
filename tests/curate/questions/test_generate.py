"""From captions to questions: written, parsed, checked, read, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from curate.questions import parsing, validation
from curate.questions.cache import CachedTextModel, TextCache
from curate.questions.generate import QuestionMaker, WritingSettings
from curate.questions.prompting import reading_request, written
from curate.scoring.endpoint import Request
from curate.shapes import world
from engine.errors import ConfigError
from engine.records import Item, Question

RED = Question(question="is it red?", choices=("yes", "no"), answer="yes", kind="color", element="red")
CUBE = Question(
    question="what is it?", choices=("cube", "ball"), answer="cube", kind="object", element="cube"
)
SIZE = Question(
    question="how big is it?", choices=("big", "small"), answer="big", kind="other", element="size"
)
ITEMS = [
    Item(id="a", caption="a red cube", questions=(RED, SIZE)),
    Item(id="b", caption="a red cube", questions=()),
    Item(id="c", caption="a haiku", questions=()),
]


class Book:
    """Goes on from the texts that it knows the ends of; from others with nothing."""

    origin = "book"

    def __init__(self, pages: Mapping[str, str]) -> None:
        self._pages = pages
        self.requests: list[Request] = []

    def texts(self, requests: Sequence[Request]) -> list[str]:
        self.requests += requests
        return [self._page(request["messages"][0]["content"]) for request in requests]

    def _page(self, text: str) -> str:
        return next((page for end, page in self._pages.items() if text.endswith(end)), "")


def writer(*questions: Question, after: str = "") -> Book:
    rows = [(one.element, one.kind, one.question, one.choices, one.answer) for one in questions]
    return Book({"Caption: a red cube\n": written(rows) + after})


def reader(answers: Mapping[Question, str]) -> Book:
    def end(question: Question) -> str:
        return str(reading_request("a red cube", question)["messages"][0]["content"]).split("Caption:")[1]

    return Book({end(question): answer for question, answer in answers.items()})


def made(maker: QuestionMaker, items: Sequence[Item] = ITEMS) -> dict[str, tuple[Question, ...]]:
    return {item.id: kept for item, kept in maker.questions(items, lambda count: None)}


def test_questions_are_kept_if_the_reader_gives_their_answer_and_every_rejection_is_counted(
    tmp_path: Path,
) -> None:
    cache = TextCache(tmp_path / "said.jsonl")
    author = CachedTextModel(writer(RED, CUBE, SIZE, after=', {"question": "is it new?"}'), cache)
    judge = CachedTextModel(reader({RED: "yes", CUBE: "ball", SIZE: "unknown"}), cache)
    maker = QuestionMaker(WritingSettings(batch=2), author, judge, own=False)
    assert made(maker) == {"a": (RED,), "b": (RED,), "c": ()}
    report = maker.report
    assert report.rejected == {validation.UNREADABLE: 4, parsing.MALFORMED: 2, parsing.NOTHING: 1}
    assert (report.items, report.kept, report.without) == (3, 2, 1)
    assert (report.asked, report.cached) == (2, 1)
    assert (report.read, report.read_cached) == (3, 3)


def test_the_data_sets_own_questions_come_first_and_none_is_asked_twice(tmp_path: Path) -> None:
    again = Question(
        question="Is it red", choices=("No", "Yes"), answer="Yes", kind="attribute", element="red"
    )
    author = CachedTextModel(writer(again, CUBE), TextCache(tmp_path / "said.jsonl"))
    both = QuestionMaker(WritingSettings(), author, own=True)
    assert made(both) == {"a": (RED, SIZE, CUBE), "b": (checked(again), CUBE), "c": ()}
    assert both.report.rejected == {validation.TWICE: 1, parsing.NOTHING: 1}
    alone = QuestionMaker(WritingSettings(), author, own=False)
    assert made(alone)["a"] == (checked(again), CUBE)


def checked(question: Question) -> Question:
    found = validation.checked(question)
    assert isinstance(found, Question)
    return found


def test_a_seed_and_a_caption_decide_a_draw_and_a_greedy_request_has_no_other(tmp_path: Path) -> None:
    def requests(**settings: float) -> list[Request]:
        book = Book({})
        cache = TextCache(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl")
        made(QuestionMaker(WritingSettings(**settings), CachedTextModel(book, cache), own=False))
        return book.requests

    assert requests(seed=1) == requests(seed=2)
    assert {one["temperature"] for one in requests()} == {0}
    one, other = requests(temperature=0.5, seed=1), requests(temperature=0.5, seed=2)
    assert requests(temperature=0.5, seed=1, batch=1) == one
    assert len({request["seed"] for request in (*one, *other)}) == 4
    assert {request["max_tokens"] for request in requests(max_tokens=99)} == {99}


def test_without_models_the_own_questions_pass_the_rules(tmp_path: Path) -> None:
    bad = Question(question="is it?", choices=("yes",), answer="yes", kind="other")
    maker = QuestionMaker(WritingSettings())
    items = [Item(id="x", caption="x", questions=(RED, bad, RED)), Item(id="y", caption="y", questions=())]
    assert made(maker, items) == {"x": (RED,), "y": ()}
    assert maker.report.rejected == {validation.ONE_CHOICE: 1, validation.TWICE: 1}
    assert (maker.report.asked, maker.report.cached, maker.report.read) == (0, 0, 0)


def test_every_rule_made_question_of_the_embedded_world_passes() -> None:
    items = [world.item("train", 3, index)[0] for index in range(60)]
    maker = QuestionMaker(WritingSettings())
    assert made(maker, items) == {item.id: item.questions for item in items}
    assert not maker.report.rejected


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"max_tokens": 0}, {"temperature": -0.1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        WritingSettings(**wrong)
