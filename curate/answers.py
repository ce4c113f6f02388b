"""When two answers are the same, and which choice an answer names: one rule for data, files and models."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from string import ascii_uppercase

_NUMBERS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = ("a", "an", "the")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DECIMAL = re.compile(r"-?\d+\.\d+")
_TELLING = "+%#<>="
"""Marks that tell one answer from another: C++, 5%, > 5; so does a minus before a digit."""
_LETTERED = re.compile(r"\s*\(?\s*(\w+)\s*(?:$|[).:\-\u2013]+\s*(.*))", re.DOTALL)
"""A letter or another name of a choice, and what stands behind it: "B", "(B) blue", "B: blue", "B - blue"."""


def normalised(text: str) -> str:
    """A text as answers are compared: small letters, accents composed, no punctuation but what tells answers
    apart, no articles, numbers to ten as digits.

    These are the steps of the VQA evaluation but for signs; a text of nothing else stays as it is.
    """
    small = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    words = _THOUSANDS.sub("", small).replace("'", "").split()
    plain = " ".join(word if _DECIMAL.fullmatch(word) else _unmarked(word) for word in words).split()
    told = [_NUMBERS.get(word, word) for word in plain if word not in _ARTICLES]
    return " ".join(told) or " ".join(small.split())


def _unmarked(word: str) -> str:
    """A word with blanks for punctuation and symbols that tell nothing; letters of any script stay."""
    sign = "-" if re.match(r"[-\u2212]\d", word) else ""
    kept = (one if one in _TELLING or unicodedata.category(one)[0] not in "PS" else " " for one in word)
    return sign + "".join(kept).strip()


def distinct(choices: Sequence[str]) -> tuple[str, ...]:
    """The choices without those that answers cannot tell from one before."""
    different: dict[str, str] = {}
    for choice in choices:
        different.setdefault(normalised(choice), choice)
    return tuple(different.values())


def same_choice(text: str, choices: Sequence[str]) -> str | None:
    """The choice whose own text an answer is; None where it is none of them."""
    told = normalised(text)
    return next((choice for choice in choices if normalised(choice) == told), None)


def named_choice(answer: str, choices: Sequence[str], names: Mapping[str, str] | None = None) -> str | None:
    """The choice that the answer of a data set means; None where it means none.

    Its own text comes first. Then comes its letter, alone or before that text: one of `names` (name ->
    choice), or the letter that stands in every choice, or A, B, C for the first, second and third.
    """
    if (own := same_choice(answer, choices)) is not None:
        return own
    lettered = _LETTERED.fullmatch(answer)
    if lettered is None:
        return None
    named = {name.casefold(): choice for name, choice in (names or _letters(choices)).items()}
    choice, behind = named.get(lettered[1].casefold()), lettered[2] or ""
    if choice is None or (behind.strip() and same_choice(behind, (choice, _behind(choice))) is None):
        return None
    return same_choice(choice, choices)


def choice_at(index: int, choices: Sequence[str]) -> str | None:
    """The choice at an index, from 0; None where there is none, or where a choice holds a digit: the index
    may then as well be a value."""
    if any(one.isdigit() for choice in choices for one in normalised(choice)):
        return None
    return same_choice(choices[index], choices) if 0 <= index < len(choices) else None


def _letters(choices: Sequence[str]) -> dict[str, str]:
    own = {choice.strip(" (")[0]: choice for choice in choices if _behind(choice) != choice}
    return own if len(own) == len(choices) else dict(zip(ascii_uppercase, choices, strict=False))


def _behind(choice: str) -> str:
    """What stands behind a choice's own letter; the choice where it has none."""
    found = _LETTERED.fullmatch(choice)
    return found[2] if found and found[2] and len(found[1]) == 1 and found[1].isalpha() else choice
