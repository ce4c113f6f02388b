"""Facts drawn by GenEval category, and the sentences that state them."""

from __future__ import annotations

import numpy as np

from curate.shapes.scene import COLORS, MAX_OBJECTS, NUMBERS, SHAPES, Facts, Group

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left", "right", "above", "below")
RELATION_WORDS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_FRAMES = ("{}", "a picture of {}", "an image with {}", "there {be} {}")
_PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}


def draw_facts(category: str, rng: np.random.Generator) -> Facts:
    """Facts of one GenEval category, from one to MAX_OBJECTS objects."""
    colors = [str(color) for color in rng.permutation(tuple(COLORS))]
    shapes = [str(shape) for shape in rng.permutation(SHAPES)]
    if category == "single_object":
        return Facts(groups=(Group(shape=shapes[0], count=1),))
    if category == "two_object":
        return Facts(groups=(Group(shape=shapes[0], count=1), Group(shape=shapes[1], count=1)))
    if category == "counting":
        return _draw_counting(shapes, colors, rng)
    if category == "colors":
        return Facts(groups=(Group(shape=shapes[0], count=1, color=colors[0]),))
    if category == "position":
        tinted = rng.random() < 0.5
        groups = tuple(Group(shape=shapes[i], count=1, color=colors[i] if tinted else None) for i in range(2))
        return Facts(groups=groups, relation=str(rng.choice(RELATIONS)))
    if category == "color_attr":
        kinds = int(rng.choice((2, 3, 4), p=(0.4, 0.4, 0.2)))
        return Facts(groups=tuple(Group(shape=shapes[i], count=1, color=colors[i]) for i in range(kinds)))
    raise ValueError(f"unknown category {category!r}")


def _draw_counting(shapes: list[str], colors: list[str], rng: np.random.Generator) -> Facts:
    """Two to four of one shape, sometimes beside one of another."""
    color = colors[0] if rng.random() < 0.5 else None
    if rng.random() < 0.6:
        count = int(rng.choice((2, 3, 4), p=(0.25, 0.25, 0.5)))
        return Facts(groups=(Group(shape=shapes[0], count=count, color=color),))
    other = Group(shape=shapes[1], count=1, color=colors[1] if color else None)
    count = int(rng.integers(2, MAX_OBJECTS))
    return Facts(groups=(Group(shape=shapes[0], count=count, color=color), other))


def noun_phrase(group: Group) -> str:
    """`a red circle`, `three squares`."""
    noun = group.shape if group.count == 1 else _PLURALS[group.shape]
    words = f"{group.color} {noun}" if group.color else noun
    return f"a {words}" if group.count == 1 else f"{NUMBERS[group.count]} {words}"


def neighbours() -> dict[str, str]:
    """Each word that names a shape, a number or a colour -> the next of its kind, in a ring.

    What a careless caption would say instead: as grammatical, and wrong.
    """
    rings = (tuple(COLORS), SHAPES, tuple(_PLURALS[shape] for shape in SHAPES), NUMBERS[2:])
    return {word: ring[(i + 1) % len(ring)] for ring in rings for i, word in enumerate(ring)}


def plural(shape: str) -> str:
    """Plural of a shape's name."""
    return _PLURALS[shape]


def write_caption(facts: Facts, rng: np.random.Generator) -> str:
    """One sentence that states the facts, in one of several frames."""
    phrases = [noun_phrase(group) for group in facts.groups]
    if facts.relation is not None:
        content = f"{phrases[0]} {RELATION_WORDS[facts.relation]} {phrases[1]}"
    elif len(phrases) == 1:
        content = phrases[0]
    else:
        content = ", ".join(phrases[:-1]) + " and " + phrases[-1]
    be = "are" if facts.groups[0].count > 1 else "is"
    return str(rng.choice(_FRAMES)).format(content, be=be)
