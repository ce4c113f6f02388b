"""Reads what a language model wrote: questions, and a reason for each that is none. Nothing is guessed.

`instruct` is ours, for any model that follows instructions: JSON, as `SCHEMA` says. `tifa` is what TIFA's
released generator (a fine-tuned Llama 2) writes: lines, where a block begins with its question and ends with
its answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from curate.questions.tifa import LIVING, TYPES, Value, stored_kind
from engine.errors import UNREADABLE
from engine.records import Question, Record

Style = Literal["instruct", "tifa"]

MOST_TEXT = 20_000
"""Characters that are read; the rest is dropped."""
MOST_CHOICES = 16
ELEMENT, QUESTION, CHOICES, ANSWER = LINES = ("About", "Q:", "Choices:", "A:")
"""The words that begin the lines of TIFA's generator."""

NOTHING = "the model wrote no question"
ASTRAY = "a line between question and answer does not belong"
UNNAMED = "no element stands before the question"
UNKNOWN = "the element's type is unknown"
CUT_SHORT = "the question has no answer"
NO_CHOICES = "the question has no choices"
TOO_MANY = f"more than {MOST_CHOICES} choices"
MALFORMED = "a field of the question is missing or of the wrong kind"

_STRING = {"type": "string"}
_FIELDS: dict[str, Any] = {
    "element": _STRING,
    "type": {"type": "string", "enum": list(TYPES)},
    "question": _STRING,
    "choices": {"type": "array", "items": _STRING},
    "answer": _STRING,
}


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": fields, "required": list(fields), "additionalProperties": False,
    }  # fmt: skip


SCHEMA = _object({"questions": {"type": "array", "items": _object(_FIELDS)}})
"""What a model that follows instructions writes about a caption."""


class Parsed(Record):
    """What a text holds."""

    questions: tuple[Question, ...]
    problems: tuple[str, ...]
    """The reason for each question that cannot be read."""


def parse(style: Style, text: str) -> Parsed:
    """The questions of one caption, as a model of this style wrote them; takes any text."""
    text = text[:MOST_TEXT]
    found = [*(_from_lines(text) if style == "tifa" else map(_from_object, _objects(text)))]
    return Parsed(
        questions=tuple(one for one in found if isinstance(one, Question)),
        problems=tuple(one for one in found if isinstance(one, str)) if found else (NOTHING,),
    )


class _Written(msgspec.Struct):
    """A question of `SCHEMA`."""

    element: str
    type: str
    question: str
    choices: list[Value]
    answer: Value


def _objects(text: str) -> Iterator[object]:
    """The questions in a text; words around them, and an end that was cut off, do not matter."""
    decoder = json.JSONDecoder()
    place = text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            listed = value.get("questions")
            yield from listed if isinstance(listed, list) else [value]
        place = text.find("{", end)


def _from_object(value: object) -> Question | str:
    try:
        # Refuses what could not be written into a file, such as half surrogates.
        msgspec.json.encode(value)
        row = msgspec.convert(value, _Written)
    except (*UNREADABLE, ValueError, OverflowError):
        return MALFORMED
    kind = row.type if row.type in (*TYPES, LIVING) else ""
    return _checked(row.question, [str(one) for one in row.choices], str(row.answer), row.element, kind)


def _checked(question: str, choices: list[str], answer: str, element: str, kind: str) -> Question | str:
    if not choices:
        return NO_CHOICES
    if len(choices) > MOST_CHOICES:
        return TOO_MANY
    if not element:
        return UNNAMED
    if not kind:
        return UNKNOWN
    return Question(
        question=question, choices=tuple(choices), answer=answer, kind=stored_kind(kind), element=element
    )


def _from_lines(text: str) -> Iterator[Question | str]:
    """Lines outside of blocks are the model's lists of elements."""
    element = kind = ""
    block: _Block | None = None
    for line in map(str.strip, text.split("\n")):
        word = next((one for one in LINES if line.startswith(one)), "")
        rest = line[len(word) :].strip()
        if word in (ELEMENT, QUESTION) and block is not None:
            yield block.problem or CUT_SHORT
            block = None
        if word == ELEMENT:
            element, kind = _element(rest)
        elif word == QUESTION:
            block = _Block(rest)
        elif block is None:
            continue
        elif word == CHOICES and not block.choices:
            block.choices = [one.strip() for one in rest.split(",")]
        elif word == ANSWER:
            yield block.problem or _checked(block.question, block.choices, rest, element, kind)
            block = None
        elif rest:
            block.problem = block.problem or ASTRAY
    if block is not None:
        yield block.problem or CUT_SHORT


class _Block(msgspec.Struct):
    """A question while its lines come in."""

    question: str
    choices: list[str] = []
    problem: str = ""


_ELEMENT = re.compile(r"(?P<name>.*\S) ?\((?P<kind>[a-z/ ]+)\) ?:?")


def _element(text: str) -> tuple[str, str]:
    """Name and type of `NAME (TYPE):`; an empty type where it is none of TIFA's."""
    match = _ELEMENT.fullmatch(text)
    if match is None:
        return text, ""
    kind = match["kind"].strip()
    return match["name"], kind if kind in (*TYPES, LIVING) else ""
