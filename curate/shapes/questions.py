"""TIFA-style questions about stated facts, and the grammar that reads them back.

Every kind is balanced, so that a constant answer scores at chance.
"""

from __future__ import annotations

import re

import numpy as np

from curate.shapes.captions import RELATION_WORDS, RELATIONS, plural
from curate.shapes.scene import COLORS, NUMBERS, SHAPES, Facts
from engine.records import Question, Record

KINDS = ("existence", "shape", "color", "count", "relation")
YES_NO = ("yes", "no")
COUNTS = NUMBERS[1:]
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
_COUNT_ACCEPTANCE = (0.095, 0.38, 1.0, 1.0)
"""Chance that a possible count question is asked, by its answer: calibrated to equal shares."""


class Query(Record):
    """What a question asks, read from its text: subject and object are (color or None, shape or None)."""

    kind: str
    subject: tuple[str | None, str | None] = (None, None)
    other: tuple[str | None, str | None] = (None, None)
    relation: str | None = None


def _name(color: str | None, shape: str | None) -> str:
    return " ".join(word for word in (color, shape or "object") if word)


def _existence(facts: Facts, answer: str, most: int, rng: np.random.Generator) -> list[Question]:
    present = {(group.color, group.shape) for group in facts.groups}
    shapes = {shape for _, shape in present}
    if answer == "yes":
        possible = sorted(present, key=str)
    elif all(color for color, _ in present):
        # A swap of attributes (a red square where there are a red circle and a blue square) is the
        # hard negative; it is only false for certain where the caption names every colour.
        swaps = {(color, shape) for color, _ in present for shape in SHAPES}
        swaps |= {(color, shape) for color in COLORS for shape in shapes}
        possible = sorted(swaps - present, key=str)
    else:
        possible = [(None, shape) for shape in SHAPES if shape not in shapes]
    return [
        Question(
            question=f"is there a {_name(*possible[pick])}?",
            choices=YES_NO,
            answer=answer,
            kind="existence",
        )
        for pick in rng.permutation(len(possible))[:most]
    ]


def _shape(facts: Facts, rng: np.random.Generator) -> Question | None:
    if len(facts.groups) == 1:
        group, text = facts.groups[0], "what shape is shown?"
    else:
        named = [group for group in facts.groups if group.color]
        if not named:
            return None
        group = named[rng.integers(len(named))]
        if group.count > 1:
            text = f"what shape are the {group.color} objects?"
        else:
            text = f"what shape is the {group.color} object?"
    return Question(question=text, choices=SHAPES, answer=group.shape, kind="shape")


def _color(facts: Facts, rng: np.random.Generator) -> Question | None:
    named = [group for group in facts.groups if group.color]
    if not named:
        return None
    group = named[rng.integers(len(named))]
    assert group.color is not None
    what = f"is the {group.shape}" if group.count == 1 else f"are the {plural(group.shape)}"
    return Question(question=f"what color {what}?", choices=tuple(COLORS), answer=group.color, kind="color")


def _count(facts: Facts, rng: np.random.Generator) -> Question | None:
    asked = [(plural(group.shape), group.count) for group in facts.groups]
    asked.append(("objects", facts.total))
    what, count = asked[rng.integers(len(asked))]
    if rng.random() > _COUNT_ACCEPTANCE[count - 1]:
        return None
    return Question(
        question=f"how many {what} are there?", choices=COUNTS, answer=NUMBERS[count], kind="count"
    )


def relation_questions(facts: Facts) -> list[Question]:
    """Everything that can be asked of a relation, from either object's side: where, and a yes and a no."""
    if facts.relation is None:
        return []
    first, second = (group.shape for group in facts.groups)
    asked = []
    for one, other, relation in (
        (first, second, facts.relation),
        (second, first, _OPPOSITE[facts.relation]),
    ):
        where = f"where is the {one} relative to the {other}?"
        asked.append(Question(question=where, choices=RELATIONS, answer=relation, kind="relation"))
        for answer, said in (("yes", relation), ("no", _OPPOSITE[relation])):
            is_it = f"is the {one} {RELATION_WORDS[said]} the {other}?"
            asked.append(Question(question=is_it, choices=YES_NO, answer=answer, kind="relation"))
    return asked


def _relations(facts: Facts, rng: np.random.Generator, sides: int) -> list[Question]:
    """Where, from the first object's side or from both; and a yes or a no, or a yes and a no."""
    asked = relation_questions(facts)
    if not asked:
        return []
    where, yes, no, back, back_yes, back_no = asked
    told, back_told = (yes, back_no) if rng.choice(YES_NO) == "yes" else (no, back_yes)
    return [where, told, back, back_told][: 2 * sides]


def write_questions(facts: Facts, rng: np.random.Generator, sides: int = 2) -> tuple[Question, ...]:
    """The questions of one item: all kinds that its facts alone can answer, three to eleven of them.

    As many existence and relation questions have the answer yes as no; counts are thinned to equal shares;
    open relation questions are balanced by symmetry. `sides` is 1 for relation questions from the first
    object's side alone.
    """
    pairs = min(2, len(facts.groups))
    possible = (
        *_existence(facts, "yes", pairs, rng),
        *_existence(facts, "no", pairs, rng),
        _shape(facts, rng),
        _color(facts, rng),
        _count(facts, rng),
        *_relations(facts, rng, sides),
    )
    return tuple(question for question in possible if question is not None)


_COLOR = "|".join(COLORS)
_SHAPE = "|".join(SHAPES)
_THING = rf"(?:(?P<c{{0}}>{_COLOR}) )?(?P<s{{0}}>{_SHAPE}|object)"
_RELATION = "|".join(RELATION_WORDS.values())
_GRAMMAR = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("existence", rf"is there an? {_THING.format(1)}\?"),
        ("shape", r"what shape is shown\?"),
        ("shape", rf"what shape (?:is|are) the {_THING.format(1)}s?\?"),
        ("color", rf"what color (?:is|are) the {_THING.format(1)}(?:e?s)?\?"),
        ("count", rf"how many {_THING.format(1)}(?:e?s)? are there\?"),
        ("where", rf"where is the {_THING.format(1)} relative to the {_THING.format(2)}\?"),
        ("relation", rf"is the {_THING.format(1)} (?P<r>{_RELATION}) the {_THING.format(2)}\?"),
    )
)


def read_question(text: str) -> Query | None:
    """The query that a question of this world's grammar puts; None for any other text."""
    for kind, pattern in _GRAMMAR:
        match = pattern.fullmatch(text.strip().lower())
        if match is None:
            continue
        named = match.groupdict()
        words = {value: key for key, value in RELATION_WORDS.items()}
        return Query(
            kind=kind,
            subject=_thing(named, 1),
            other=_thing(named, 2),
            relation=words.get(named.get("r") or ""),
        )
    return None


def _thing(named: dict[str, str | None], which: int) -> tuple[str | None, str | None]:
    shape = named.get(f"s{which}")
    return named.get(f"c{which}"), None if shape == "object" else shape
