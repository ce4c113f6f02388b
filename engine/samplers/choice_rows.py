"""How a question's text and all its choices become one branch behind an image, read in one pass.

    stem | text | choice 1 | choice 2 | ...

A text sees the stem and its own past; a choice sees the stem, the text and its own past, and no other choice.
Positions go on from what a token sees, so every choice stands where it would stand alone. The stem is the
image and the words with which all its questions begin.

Legend: N features of an image, F their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Ask(NamedTuple):
    """One question after an image's prefix."""

    text: tuple[int, ...]
    """Everything from the prefix to the point where the answer starts."""
    choices: tuple[tuple[int, ...], ...]
    """The ids of every choice, without their end."""


class Seen(NamedTuple):
    """An image with its questions, as the model sees it."""

    prefix: list[int]
    asks: list[Ask]
    features: Tensor | None = None
    """[N, F] where understanding sees CLIP features; the prefix holds a pad for each."""


class Branch(NamedTuple):
    """A question behind its stem."""

    ids: list[int]
    positions: list[int]
    shared: int
    """Tokens of the text, which all choices see."""
    first: list[int]
    """Where the choice of each token starts; 0 in the text."""
    places: list[int]
    """Where a next token is read: the end of the text and every token of a choice."""
    reads: list[tuple[int, int, int]]
    """(choice, index into `places`, next token); a choice ends with eos."""


class Row(NamedTuple):
    """All branches of an image, one after another behind its stem; a number a token, but for `places`."""

    ids: list[int]
    positions: list[int]
    begin: list[int]
    """Besides the stem a token sees what is from here on before `shared`, or from `first` on, to itself."""
    shared: list[int]
    first: list[int]
    places: list[int]
    """Of all branches' reads, in order."""


def common_start(asks: Sequence[Ask]) -> int:
    """Tokens with which all texts begin; at least one token of each is left over."""
    texts = [ask.text for ask in asks]
    most = min(map(len, texts), default=1) - 1
    return next((i for i in range(most) if len({text[i] for text in texts}) > 1), most)


def lay_out(stem: int, ask: Ask, skipped: int, eos: int) -> Branch:
    """A question behind a stem of so many tokens, the first `skipped` ones of its text among them."""
    text = ask.text[skipped:]
    size = len(text)
    branch = Branch([*text], list(range(stem, stem + size)), size, [0] * size, [size - 1], [])
    for which, ids in enumerate(ask.choices):
        start, index = len(branch.ids), len(branch.places)
        branch.ids.extend(ids)
        branch.positions.extend(range(stem + size, stem + size + len(ids)))
        branch.first.extend([start] * len(ids))
        branch.places.extend(range(start, start + len(ids)))
        sources = [0, *range(index, index + len(ids))]
        branch.reads.extend((which, *read) for read in zip(sources, (*ids, eos), strict=True))
    return branch


def in_a_row(branches: Sequence[Branch], size: int) -> Row:
    """The branches as `size` tokens; those that fill up see themselves alone, and nothing sees them."""
    row = Row([], [], [], [], [], [])
    for one in branches:
        start, count = len(row.ids), len(one.ids)
        row.ids.extend(one.ids)
        row.positions.extend(one.positions)
        row.begin.extend([start] * count)
        row.shared.extend([start + one.shared] * count)
        row.first.extend(start + first for first in one.first)
        row.places.extend(start + place for place in one.places)
    spare = range(len(row.ids), size)
    for numbers in (row.ids, row.positions):
        numbers.extend([0] * len(spare))
    for numbers in (row.begin, row.shared, row.first):
        numbers.extend(spare)
    return row
