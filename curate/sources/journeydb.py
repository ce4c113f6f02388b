"""JourneyDB's annotations: JSON lines with a caption and questions of its own for every image.

A row is {img_path, prompt, Task2: {Caption}, Task3: {"Style Relevant Questions and Answers": [...], "Content
Relevant Questions and Answers": [...]}}, a question {Question, Options: {A: ..., B: ...}, Answer: "A"}.
Images lie beside the annotations or in `imgs` there. The id is the image's path without its ending.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from PIL import Image

from curate.sources.confine import read_inside
from curate.sources.digest import files_digest
from curate.sources.fields import Fields, make_row
from curate.sources.json_text import json_lines
from curate.sources.listing import confined
from curate.sources.rows import DataRow
from engine.records import Item

TASKS = ("Task1", "Task2", "Task3")
_GROUPS = {
    "Style Relevant Questions and Answers": "style",
    "Content Relevant Questions and Answers": "content",
}


class JourneyReader:
    """Rows of one annotation file."""

    oracle = is_split = False

    def __init__(self, annotations: Path, name: str) -> None:
        self.name = name
        self._annotations = annotations

    def digest(self) -> str:
        return files_digest([self._annotations])

    def rows(self) -> Iterator[DataRow]:
        with self._annotations.open("rb") as stream:
            for position, entry in enumerate(json_lines(stream)):
                where = f"{self._annotations.name}:{entry.number}"
                if entry.value is None:
                    yield DataRow(position=position, where=where, reason=entry.problem)
                else:
                    row = make_row(position, where, _plain(entry.value), fallback_id=_id(entry.value))
                    yield confined(row, self._annotations.parent)

    def image(self, item: Item) -> Image.Image:
        return read_inside(self._annotations.parent, item.image, ("", "imgs"))


def _id(fields: Fields) -> str:
    path = fields.get("img_path")
    return str(PurePosixPath(path).with_suffix("")) if isinstance(path, str) and path.strip("./ ") else ""


def _plain(fields: Fields) -> Fields:
    """The same row in the usual fields."""
    task = fields.get("Task2")
    caption = task.get("Caption") if isinstance(task, Mapping) else None
    return {**fields, "caption": caption, "text": None, "questions": list(_questions(fields.get("Task3")))}


def _questions(task: object) -> Iterator[object]:
    if not isinstance(task, Mapping):
        return
    for group, kind in _GROUPS.items():
        rows = task.get(group)
        for row in rows if isinstance(rows, list) else []:
            yield {"kind": kind, **row} if isinstance(row, Mapping) else row
