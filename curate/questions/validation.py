"""Which questions are fit to be asked: pure rules, each rejection with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from curate.answers import distinct, named_choice, normalised, same_choice
from engine.records import Question, Record

LONGEST_QUESTION, LONGEST_CHOICE = 300, 100
"""Characters of a question, and of a choice or an element."""

EMPTY = "the question is empty"
LONG = "a text is too long"
EMPTY_CHOICE = "a choice is empty"
ONE_CHOICE = "fewer than two different choices"
ASTRAY = "the answer is not among the choices"
TWICE = "asked before"
UNREADABLE = "the reader answers otherwise"


class Sifted(Record):
    """Questions that pass, and how many do not for which reason."""

    kept: tuple[Question, ...]
    rejected: dict[str, int]


def checked(question: Question) -> Question | str:
    """The question, each choice once and the answer spelt as its choice; or why it cannot be asked."""
    text = " ".join(question.question.split())
    choices = [" ".join(choice.split()) for choice in question.choices]
    if not text:
        return EMPTY
    if not all(choices):
        return EMPTY_CHOICE
    if len(text) > LONGEST_QUESTION or max(map(len, (*choices, question.element))) > LONGEST_CHOICE:
        return LONG
    different = distinct(choices)
    if len(different) < 2:
        return ONE_CHOICE
    answer = named_choice(question.answer, choices)
    if answer is None:
        return ASTRAY
    return msgspec.structs.replace(question, question=text, choices=different, answer=answer)


def identity(question: Question) -> tuple[str, frozenset[str]]:
    """What two questions share that ask the same: text and choices, in any order."""
    return normalised(question.question), frozenset(map(normalised, question.choices))


def sifted(questions: Iterable[Question]) -> Sifted:
    """One caption's questions, checked; of two that ask the same, the first."""
    kept: list[Question] = []
    seen: set[tuple[str, frozenset[str]]] = set()
    rejected: Counter[str] = Counter()
    for question in questions:
        found = checked(question)
        if isinstance(found, str):
            rejected[found] += 1
        elif identity(found) in seen:
            rejected[TWICE] += 1
        else:
            seen.add(identity(found))
            kept.append(found)
    return Sifted(kept=tuple(kept), rejected=dict(rejected))


def read_choice(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a reader's answer is; None where it is none of them.

    The answer is the first line that is not empty; nothing is searched for a choice in it.
    """
    line = next((one for one in text.split("\n") if one.strip()), "")
    return same_choice(line.strip().removeprefix("Answer:"), choices)


def answered(question: Question, text: str) -> bool:
    """Whether a reader who knows the caption alone gave the question's answer."""
    return read_choice(text, question.choices) == question.answer
