"""From the fields of a row, as other tools spell them, to an item.

A row without a caption or an image is of no use and is quarantined. A question that cannot be scored is left
out with its reason, and the item keeps the others; an item without any question serves captions alone. Other
fields are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import msgspec

from curate.answers import choice_at, distinct, named_choice
from curate.sources.confine import shared_name, stray
from curate.sources.rows import DataRow
from curate.sources.spelling import (
    CAPTION_NAMES,
    ID,
    IMAGE,
    IMAGE_NAMES,
    SHARED,
    Fields,
    address_hint,
    first_of,
    spelled,
)
from engine.errors import UNREADABLE
from engine.records import Item, Question

_QUESTION, _CHOICES, _ANSWER = (
    ("question", "Question"),
    ("choices", "options", "Options"),
    ("answer", "Answer"),
)
_KIND = ("kind", "element_type", "answer_type")


class FieldError(ValueError):
    """Why a row or a question cannot be used. Never leaves this package."""


def make_rows(
    position: int,
    where: str,
    fields: Fields | str,
    image: str = "",
    fallback_id: str = "",
    folders: Sequence[Path] = (),
) -> Iterator[DataRow]:
    """The row of some fields, one for each caption, or of the reason why there are none.

    `image` says where an embedded image lies; without it the fields must name one, in one of the `folders`.
    The id is the row's own, else `fallback_id`, else the image's name.
    """
    for one in [fields] if isinstance(fields, str) else spelled(fields):
        try:
            if isinstance(one, str):
                raise FieldError(one)
            item, dropped = _item(one, image, fallback_id)
            if folders and not image and (reason := stray(folders, item.image)):
                raise FieldError(reason)
        except FieldError as error:
            yield DataRow(position=position, where=where, reason=str(error))
            continue
        shared = _embedded(one, folders) if image else shared_name(folders, item.image)
        yield DataRow(position=position, where=where, item=item, dropped=dropped, shared=shared)


def _embedded(fields: Fields, folders: Sequence[Path]) -> str:
    """What the rows of one embedded image have in common: its id, else the name that it once had."""
    if (known := first_of(fields, SHARED)) not in (None, ""):
        return str(known)
    values = (fields.get(name) for name in IMAGE)
    names = (value.get("path") if isinstance(value, Mapping) else value for value in values)
    return next((shared_name(folders, name) for name in names if isinstance(name, str) and name), "")


def as_text(value: object, what: str) -> str:
    """Text without the space around it. Raises FieldError where there is none."""
    if isinstance(value, str) and (text := value.strip()) and _is_unicode(text):
        if "\0" in text:
            raise FieldError(f"{what} {shown(value)} holds NUL characters")
        return text
    if value is None:
        raise FieldError(f"{what} is missing")
    if not isinstance(value, str):
        raise FieldError(f"{what} is not text but {shown(value)}")
    raise FieldError(f"{what} {shown(value)} is not valid Unicode" if value.strip() else f"{what} is empty")


def shown(value: object) -> str:
    """A value on one short line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _item(fields: Fields, image: str, fallback_id: str) -> tuple[Item, tuple[str, ...]]:
    caption = as_text(fields.get("caption"), CAPTION_NAMES)
    if not image and first_of(fields, IMAGE) is None and (hint := address_hint(fields)):
        raise FieldError(f"the image is missing{hint}")
    image = image or as_text(first_of(fields, IMAGE), IMAGE_NAMES)
    own = fields.get(ID)
    if isinstance(own, int) and not isinstance(own, bool):
        own = str(own)
    asked = fields.get("questions")
    questions, dropped = read_questions(_own_question(fields) if asked is None else asked)
    return (
        Item(
            id=as_text(own if own is not None else fallback_id or image, ID),
            caption=caption,
            questions=questions,
            category=_optional(fields.get("category")) or "other",
            objects=_count(fields.get("objects")),
            image=image,
            prompt=_optional(fields.get("prompt")),
        ),
        dropped,
    )


def _own_question(fields: Fields) -> list[Fields]:
    """A row that is a question itself: its text stands among the fields, with choices or an answer."""
    text, *others = (first_of(fields, names) for names in (_QUESTION, _CHOICES, _ANSWER))
    return [fields] if text is not None and others != [None, None] else []


def _optional(value: object) -> str:
    return value.strip() if isinstance(value, str) and _is_unicode(value) else ""


def _count(value: object) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value[:9])
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else 0


def read_questions(value: object) -> tuple[tuple[Question, ...], tuple[str, ...]]:
    """The questions of a field that can be scored, and why the others cannot; what concerns one question
    alone stands behind a colon.

    Takes a list of objects, an object of lists, or either as JSON text.
    """
    usable: dict[str, Question] = {}
    dropped = []
    try:
        rows = _question_rows(value)
    except FieldError as error:
        return (), (str(error),)
    for row in rows:
        try:
            question = _question(row)
            if question.question in usable:
                raise FieldError("it is asked twice")
            usable[question.question] = question
        except FieldError as error:
            text = first_of(row, _QUESTION) if isinstance(row, Mapping) else row
            dropped.append(f"{error}: {shown(text)}")
    return tuple(usable.values()), tuple(dropped)


def _question_rows(value: object) -> list[object]:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value) if value.strip() else None
        except (*UNREADABLE, UnicodeEncodeError) as error:
            raise FieldError(f"questions are text that is no JSON: {shown(value)}") from error
    if value is None:
        return []
    if isinstance(value, Mapping) and all(isinstance(column, list) for column in value.values()):
        return [dict(zip(value, row, strict=True)) for row in zip_longest(*value.values())]
    if not isinstance(value, list):
        raise FieldError(f"questions are not a list: {shown(value)}")
    return value


def _question(row: object) -> Question:
    if not isinstance(row, Mapping):
        raise FieldError("a question is not an object")
    text = as_text(first_of(row, _QUESTION), "a question")
    listed, given = first_of(row, _CHOICES), first_of(row, _ANSWER)
    names: list[str] = []
    if isinstance(listed, Mapping):
        names = [str(name) for name, one in listed.items() if one is not None]
        listed = [one for one in listed.values() if one is not None]
    if not isinstance(listed, list):
        raise FieldError("a question has no list of choices")
    choices = [as_text(_scalar(one), "a choice") for one in listed]
    different = distinct(choices)
    if len(different) < 2:
        raise FieldError("fewer than two distinct choices")
    told = as_text(_scalar(given), "the answer")
    answer = named_choice(told, choices, dict(zip(names, choices, strict=False)))
    if answer is None and isinstance(given, int) and not names:
        answer = choice_at(given, choices)
    if answer is None:
        raise FieldError(f"the answer is not among the choices: {shown(told)}")
    kind = _optional(first_of(row, _KIND)) or "other"
    return Question(question=text, choices=different, answer=answer, kind=kind)


def _scalar(value: object) -> object:
    """Numbers as text: choices such as 1, 2, 3 are often left bare."""
    return value if isinstance(value, str | bool) or not isinstance(value, int | float) else str(value)
