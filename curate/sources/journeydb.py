"""JourneyDB's annotations: JSON lines with a caption and questions of its own for every image.

A row is {img_path, prompt, Task2: {Caption}, Task3: {"Style Relevant Questions and Answers": [...], "Content
Relevant Questions and Answers": [...]}}, a question {Question, Options: {A: ..., B: ...}, Answer: "A"}.
The id is the image's path without its ending.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from curate.sources.json_text import json_lines
from curate.sources.spelling import ID, Fields

TASKS = ("Task1", "Task2", "Task3")
_GROUPS = {
    "Style Relevant Questions and Answers": "style",
    "Content Relevant Questions and Answers": "content",
}


def journey_entries(files: Sequence[Path]) -> Iterator[tuple[str, Fields | str]]:
    """The rows of annotation files."""
    for file in files:
        for where, fields in json_lines(file):
            yield where, fields if isinstance(fields, str) else _plain(fields)


def _plain(fields: Fields) -> Fields:
    """The same row in the usual fields."""
    id_, path, task = fields.get(ID), fields.get("img_path"), fields.get("Task2")
    if id_ is None and isinstance(path, str) and path.strip("./ "):
        id_ = str(PurePosixPath(path).with_suffix(""))
    caption = task.get("Caption") if isinstance(task, Mapping) else None
    questions = list(_questions(fields.get("Task3")))
    return {**fields, ID: id_, "caption": caption, "text": None, "questions": questions}


def _questions(task: object) -> Iterator[object]:
    if not isinstance(task, Mapping):
        return
    for group, kind in _GROUPS.items():
        rows = task.get(group)
        for row in rows if isinstance(rows, list) else []:
            yield {"kind": kind, **row} if isinstance(row, Mapping) else row
