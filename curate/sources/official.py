"""The official `initial_data.json`, with the questions of a `vqa_data.json` beside it.

An object is {id, img_path, prompt, caption}; the caption conditions generation, and the prompt is kept. Other
JSON arrays with the usual fields are read just so. An object of the questions is {id, caption, question,
choices, answer}; their order need not be that of the items, and all are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from curate.sources.annotations import AnnotationReader
from curate.sources.digest import files_digest
from curate.sources.fields import CAPTION, ID, Fields, first_of
from curate.sources.json_objects import json_objects

INITIAL, QUESTIONS = "initial_data.json", "vqa_data.json"


class OfficialReader(AnnotationReader):
    """Objects of one array; then, quarantined, the damaged objects of the file of questions."""

    def __init__(self, array_file: Path, name: str) -> None:
        super().__init__(array_file, name)
        questions = array_file.with_name(QUESTIONS)
        self._question_files = [questions] if questions.is_file() and questions != array_file else []

    def digest(self) -> str:
        return files_digest([self._file, *self._question_files])

    def _entries(self) -> Iterator[tuple[str, Fields | str]]:
        for where, fields in _objects(self._file):
            if not isinstance(fields, str) and (questions := self._questions_of(fields)):
                fields = {**fields, "questions": questions}
            yield where, fields
        yield from self._questions[2]

    @cached_property
    def _questions(self) -> tuple[dict[str, list[Fields]], dict[str, list[Fields]], list[tuple[str, str]]]:
        """Questions by id, questions by caption, and the objects that are none, each with its reason."""
        by_id: dict[str, list[Fields]] = {}
        by_caption: dict[str, list[Fields]] = {}
        damaged = []
        for where, fields in (found for file in self._question_files for found in _objects(file)):
            if isinstance(fields, str):
                damaged.append((where, fields))
                continue
            id_, caption = _plain(fields.get(ID)), _plain(fields.get("caption"))
            if id_:
                by_id.setdefault(id_, []).append(fields)
            if caption:
                by_caption.setdefault(caption, []).append(fields)
            if not (id_ or caption):
                damaged.append((where, "the question names neither an id nor a caption"))
        return by_id, by_caption, damaged

    def _questions_of(self, item: Fields) -> list[Fields]:
        """The questions with an item's id, unless they state another caption; else those with its caption."""
        by_id, by_caption, _ = self._questions
        caption = _plain(first_of(item, CAPTION))
        own = by_id.get(_plain(item.get(ID)), [])
        same = [one for one in own if _plain(one.get("caption")) in ("", caption)]
        return same or by_caption.get(caption, [])


def _objects(file: Path) -> Iterator[tuple[str, Fields | str]]:
    with file.open("rb") as stream:
        for number, found in json_objects(stream):
            yield f"{file.name}:object {number}", found


def _plain(value: object) -> str:
    """An id or a caption for comparison."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return " ".join(value.split()) if isinstance(value, str) else ""
