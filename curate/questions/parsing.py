"""Reads what a language model wrote: questions, and a reason for each block that is none.

A block begins with its question and ends with its answer. Nothing is guessed: a block with a line that does
not belong, or without one that does, is no question. Lines outside of blocks are the model's lists.
"""

from __future__ import annotations

import re

from curate.questions.layout import LAYOUTS, Layout, Style
from curate.questions.tifa import LIVING, TYPES, stored_kind
from engine.records import Question, Record

MOST_TEXT = 20_000
"""Characters that are read; the rest is dropped."""
MOST_CHOICES = 16

NOTHING = "the model wrote no question"
ASTRAY = "a line between question and answer does not belong"
UNNAMED = "no element stands before the question"
UNKNOWN = "the element's type is unknown"
CUT_SHORT = "the question has no answer"
NO_CHOICES = "the question has no choices"
TOO_MANY = f"more than {MOST_CHOICES} choices"


class Parsed(Record):
    """What a text holds."""

    questions: tuple[Question, ...]
    problems: tuple[str, ...]
    """The reason for each block that is no question."""


class _Block:
    """A question while its lines come in."""

    def __init__(self, question: str) -> None:
        self.question = question
        self.choices: tuple[str, ...] | None = None
        self.problem = ""


_ELEMENT = re.compile(r"(?P<name>.*\S) ?\((?P<kind>[a-z/ ]+)\) ?:?")


def parse(style: Style, text: str) -> Parsed:
    """The questions of one caption, as a model of this style wrote them; takes any text."""
    layout = LAYOUTS[style]
    questions: list[Question] = []
    problems: list[str] = []
    element = kind = ""
    block: _Block | None = None
    for line in text[:MOST_TEXT].split("\n"):
        word, rest = _begins(layout, line.strip())
        if word in (layout.element, layout.question) and block is not None:
            problems.append(block.problem or CUT_SHORT)
            block = None
        if word == layout.element:
            element, kind = _element(rest)
        elif word == layout.question:
            block = _Block(rest)
        elif block is None:
            continue
        elif word == layout.choices and block.choices is None:
            block.choices = tuple(one.strip() for one in rest.split(layout.between.strip()))
        elif word == layout.answer:
            found = _closed(block, element, kind, rest)
            if isinstance(found, Question):
                questions.append(found)
            else:
                problems.append(found)
            block = None
        elif rest:
            block.problem = block.problem or ASTRAY
    if block is not None:
        problems.append(block.problem or CUT_SHORT)
    return Parsed(
        questions=tuple(questions), problems=tuple(problems if questions or problems else [NOTHING])
    )


def _begins(layout: Layout, line: str) -> tuple[str, str]:
    """The layout's word that a line begins with, and what follows it; or no word and the line."""
    for word in (layout.element, layout.question, layout.choices, layout.answer):
        if line.startswith(word):
            return word, line[len(word) :].strip()
    return "", line


def _element(text: str) -> tuple[str, str]:
    """Name and type of `NAME (TYPE):`; an empty type where it is none of TIFA's."""
    match = _ELEMENT.fullmatch(text)
    if match is None:
        return text, ""
    kind = match["kind"].strip()
    return match["name"], stored_kind(kind) if kind in (*TYPES, LIVING) else ""


def _closed(block: _Block, element: str, kind: str, answer: str) -> Question | str:
    if block.problem:
        return block.problem
    if block.choices is None:
        return NO_CHOICES
    if len(block.choices) > MOST_CHOICES:
        return TOO_MANY
    if not element:
        return UNNAMED
    if not kind:
        return UNKNOWN
    return Question(question=block.question, choices=block.choices, answer=answer, kind=kind, element=element)
