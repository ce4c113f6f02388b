"""The official `initial_data.json`, with the questions of a `vqa_data.json` beside it.

An object is {id, img_path, prompt, caption}; the caption conditions generation, and the prompt is kept. Other
JSON arrays with the usual fields are read just so.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from PIL import Image

from curate.sources.confine import read_inside
from curate.sources.digest import files_digest
from curate.sources.fields import CAPTION, ID, Fields, first_of, make_row
from curate.sources.json_objects import json_objects
from curate.sources.json_text import JsonObject
from curate.sources.listing import confined
from curate.sources.rows import DataRow
from engine.records import Item

INITIAL, QUESTIONS = "initial_data.json", "vqa_data.json"


class OfficialReader:
    """Objects of one array; image paths are relative to its folder."""

    oracle = is_split = False

    def __init__(self, array_file: Path, name: str) -> None:
        self.name = name
        self._file, self._folder = array_file, array_file.parent
        questions = self._folder / QUESTIONS
        self._questions = QuestionFile(questions) if questions.is_file() and questions != array_file else None

    def digest(self) -> str:
        return files_digest([self._file, *([self._questions.path] if self._questions else [])])

    def rows(self) -> Iterator[DataRow]:
        """The items; then the damaged objects of the file of questions."""
        position = 0
        with self._file.open("rb") as stream:
            for entry in json_objects(stream):
                yield self._row(position, entry)
                position += 1
        for entry in self._questions.damaged() if self._questions else ():
            where = f"{QUESTIONS}:object {entry.number}"
            yield DataRow(position=position, where=where, reason=entry.problem)
            position += 1

    def image(self, item: Item) -> Image.Image:
        return read_inside(self._folder, item.image)

    def _row(self, position: int, entry: JsonObject) -> DataRow:
        where = f"{self._file.name}:object {entry.number}"
        if entry.value is None:
            return DataRow(position=position, where=where, reason=entry.problem)
        fields = entry.value
        if self._questions is not None:
            fields = {**fields, "questions": self._questions.of(fields) or fields.get("questions")}
        return confined(make_row(position, where, fields), self._folder)


class QuestionFile:
    """A file of one object a question, {id, caption, question, choices, answer}, found by id or by caption.

    The order of its objects need not be that of the items. All questions are held in memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _questions(self) -> tuple[dict[str, list[Fields]], dict[str, list[Fields]], list[JsonObject]]:
        """Questions by id, questions by caption, and the objects that are none."""
        by_id: dict[str, list[Fields]] = {}
        by_caption: dict[str, list[Fields]] = {}
        damaged = []
        with self.path.open("rb") as stream:
            for one in json_objects(stream):
                if problem := _problem(one):
                    damaged.append(JsonObject(number=one.number, value=None, problem=problem))
                    continue
                for named, key in ((by_id, ID), (by_caption, "caption")):
                    if one.value and (value := _plain(one.value.get(key))):
                        named.setdefault(value, []).append(one.value)
        return by_id, by_caption, damaged

    def of(self, item: Fields) -> list[Fields]:
        """The questions with an item's id, unless they state another caption; else those with its caption."""
        by_id, by_caption, _ = self._questions
        caption = _plain(first_of(item, CAPTION))
        own = by_id.get(_plain(item.get(ID)), [])
        same = [one for one in own if _plain(one.get("caption")) in ("", caption)]
        return same or by_caption.get(caption, [])

    def damaged(self) -> list[JsonObject]:
        """Objects that cannot be read, and those that name neither an id nor a caption."""
        return self._questions[2]


def _problem(entry: JsonObject) -> str:
    if entry.value is None:
        return entry.problem
    named = _plain(entry.value.get(ID)) or _plain(entry.value.get("caption"))
    return "" if named else "the question names neither an id nor a caption"


def _plain(value: object) -> str:
    """An id or a caption for comparison."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return " ".join(value.split()) if isinstance(value, str) else ""
