"""Questions in TIFA v1.0's JSON: an array of objects, one a question (Hu et al., 2023, arXiv 2303.11897).

Read leniently: both names of the type, numbers where texts belong, unknown fields (kept aside), and what
scripts that append leave behind (trailing commas, missing brackets, one object a line). Written exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from curate.answers import choice_at, same_choice
from curate.sources.json_objects import json_objects
from engine.errors import UNREADABLE, DataError
from engine.files.atomic import write_parts
from engine.records import Item, Question, Record

TYPES = (
    "object", "human", "animal", "food", "activity", "attribute", "counting",
    "color", "material", "spatial", "location", "shape", "other",
)  # fmt: skip
"""What an element of a caption can be."""
LIVING = "animal/human"
"""How TIFA v1.0 names the types animal and human, which it counts together."""

Value = str | int | float


class TifaQuestion(Record):
    """One row of a file."""

    id: str | int
    """Of the caption; empty where the row has none."""
    caption: str
    question: Question
    extra: dict[str, Any] = {}
    """All other fields, such as `coco_val_id`; they are written back."""


class TifaFile(Record):
    """What a file holds."""

    rows: tuple[TifaQuestion, ...]
    bad: tuple[str, ...]
    """Of each row that is no question: which it is, and why."""


class _Row(msgspec.Struct):
    question: str
    choices: list[Value]
    answer: Value
    id: str | int | None = None
    caption: str | None = None
    answer_type: str | None = None
    element_type: str | None = None
    element: str | None = None


def stored_kind(kind: str) -> str:
    """A type as v1.0 stores it: `animal` and `human` become one; all others stay."""
    return LIVING if kind in ("animal", "human") else kind


def read_tifa(path: Path) -> TifaFile:
    """All questions of a file, about 1 KB of memory each.

    Raises:
        DataError: the file cannot be read, or holds no question.
    """
    rows: list[TifaQuestion] = []
    bad: list[str] = []
    try:
        with path.open("rb") as stream:
            for number, found in json_objects(stream):
                row = found if isinstance(found, str) else _question(found)
                if isinstance(row, str):
                    bad.append(f"row {number}: {row}")
                else:
                    rows.append(row)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}; give a file of TIFA questions") from error
    if not rows:
        first = bad[0] if bad else "it is empty"
        raise DataError(f"{path}: no TIFA question in this file; first problem: {first}")
    return TifaFile(rows=tuple(rows), bad=tuple(bad))


def write_tifa(path: Path, rows: Iterable[TifaQuestion]) -> None:
    """Writes beside and renames; one object a line."""
    write_parts(path, _lines(rows))


def from_item(item: Item, questions: Iterable[Question]) -> Iterator[TifaQuestion]:
    """Questions about an item's caption as rows of a file."""
    for question in questions:
        yield TifaQuestion(id=item.id, caption=item.caption, question=question)


def _question(value: dict[str, Any]) -> TifaQuestion | str:
    """The row that an object makes, or why it makes none."""
    try:
        # Refuses half surrogates and endless numbers, which could not be written back.
        msgspec.json.encode(value)
        row = msgspec.convert(value, _Row)
    except (*UNREADABLE, ValueError, OverflowError) as error:
        return str(error)
    if row.id in (None, "") and not row.caption:
        return "neither an id nor a caption says what the question is about"
    known, choices, answer = _Row.__struct_fields__, tuple(map(str, row.choices)), str(row.answer)
    if isinstance(row.answer, int) and same_choice(answer, choices) is None:
        answer = choice_at(row.answer, choices) or answer
    return TifaQuestion(
        id="" if row.id is None else row.id,
        caption=row.caption or "",
        question=Question(
            question=row.question,
            choices=choices,
            answer=answer,
            kind=row.element_type or row.answer_type or "other",
            element=row.element or "",
        ),
        extra={name: one for name, one in value.items() if name not in known},
    )


def _lines(rows: Iterable[TifaQuestion]) -> Iterator[bytes]:
    between = b"[\n"
    for row in rows:
        yield between + msgspec.json.encode(_fields(row))
        between = b",\n"
    yield b"\n]\n" if between == b",\n" else b"[]\n"


def _fields(row: TifaQuestion) -> dict[str, Any]:
    """The fields in v1.0's order.

    The type stands under both names: v1.0 was first described with one, its scorer reads the other.
    """
    kind = stored_kind(row.question.kind)
    named = {
        "id": row.id,
        "caption": row.caption,
        "question": row.question.question,
        "choices": row.question.choices,
        "answer": row.question.answer,
        "answer_type": kind,
        "element_type": kind,
        "element": row.question.element,
    }
    return {**named, **{name: value for name, value in row.extra.items() if name not in named}}
