"""Which questions are fit to be asked: pure rules, each rejection with its reason."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

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

_NUMBERS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = ("a", "an", "the")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d)")
_DECIMAL = re.compile(r"\d+\.\d+")


class Sifted(Record):
    """Questions that pass, and how many do not for which reason."""

    kept: tuple[Question, ...]
    rejected: dict[str, int]


def normalised(text: str) -> str:
    """A text as answers are compared: small letters, no punctuation, no articles, numbers to ten as digits.

    These are the steps of the VQA evaluation; a text that consists of nothing else stays as it is.
    """
    small = text.casefold()
    words = _THOUSANDS.sub("", small).replace("'", "").split()
    plain = " ".join(word if _DECIMAL.fullmatch(word) else _unmarked(word) for word in words).split()
    told = [_NUMBERS.get(word, word) for word in plain if word not in _ARTICLES]
    return " ".join(told) or " ".join(small.split())


def _unmarked(word: str) -> str:
    """A word with blanks for its punctuation and symbols; what belongs to letters, in any script, stays."""
    return "".join(" " if unicodedata.category(one)[0] in "PS" else one for one in word)


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
    different: dict[str, str] = {}
    for choice in choices:
        different.setdefault(normalised(choice), choice)
    if len(different) < 2:
        return ONE_CHOICE
    answer = different.get(normalised(question.answer))
    if answer is None:
        return ASTRAY
    return msgspec.structs.replace(question, question=text, choices=tuple(different.values()), answer=answer)


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
    told = normalised(line.strip().removeprefix("Answer:"))
    return next((choice for choice in choices if normalised(choice) == told), None)


def answered(question: Question, text: str) -> bool:
    """Whether a reader who knows the caption alone gave the question's answer."""
    return read_choice(text, question.choices) == question.answer
