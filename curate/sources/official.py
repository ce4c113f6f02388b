"""The official `initial_data.json`, with the questions of a `vqa_data.json` beside it.

An object is {id, img_path, prompt, caption}; the caption conditions generation, and the prompt is kept. Other
JSON arrays with the usual fields are read just so. An object of the questions is {id, caption, question,
choices, answer}; their order need not be that of the items, and all are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from curate.sources.json_objects import json_objects
from curate.sources.spelling import CAPTION, ID, Fields, first_of

INITIAL, QUESTIONS = "initial_data.json", "vqa_data.json"


def official_files(file: Path) -> tuple[Path, ...]:
    """An array, and the questions that lie beside it."""
    questions = file.with_name(QUESTIONS)
    return (file, questions) if questions.is_file() and questions != file else (file,)


def official_entries(files: Sequence[Path]) -> Iterator[tuple[str, Fields | str]]:
    """Objects of the first file; then, quarantined, the damaged objects of the file of questions."""
    questions = _Questions(files[1:])
    for where, fields in _objects(files[0]):
        if not isinstance(fields, str) and (asked := questions.of(fields)):
            fields = {**fields, "questions": asked}
        yield where, fields
    yield from questions.damaged


class _Questions:
    """The questions of files, by the item's id and by its caption."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._by_id: dict[str, list[Fields]] = {}
        self._by_caption: dict[str, list[Fields]] = {}
        self.damaged: list[tuple[str, str]] = []
        for where, fields in (found for file in files for found in _objects(file)):
            if isinstance(fields, str):
                self.damaged.append((where, fields))
                continue
            id_, caption = _plain(fields.get(ID)), _plain(fields.get("caption"))
            if id_:
                self._by_id.setdefault(id_, []).append(fields)
            if caption:
                self._by_caption.setdefault(caption, []).append(fields)
            if not (id_ or caption):
                self.damaged.append((where, "the question names neither an id nor a caption"))

    def of(self, item: Fields) -> list[Fields]:
        """The questions with an item's id, unless they state another caption; else those with its caption."""
        caption = _plain(first_of(item, CAPTION))
        own = self._by_id.get(_plain(item.get(ID)), [])
        same = [one for one in own if _plain(one.get("caption")) in ("", caption)]
        return same or self._by_caption.get(caption, [])


def _objects(file: Path) -> Iterator[tuple[str, Fields | str]]:
    with file.open("rb") as stream:
        for number, found in json_objects(stream):
            yield f"{file.name}:object {number}", found


def _plain(value: object) -> str:
    """An id or a caption for comparison."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return " ".join(value.split()) if isinstance(value, str) else ""
