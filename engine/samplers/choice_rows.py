"""How all questions about an image, and all their choices, become one row of tokens that is read in one pass.

    prefix | text 1 | choice 1.1 | choice 1.2 | ... | text 2 | choice 2.1 | ...

A text sees the prefix and its own past, a choice sees the prefix, its question's text and its own past, and
nothing sees another question or another choice. Positions go on from what a token sees, so every choice
stands where it would stand alone.

Legend: T tokens of a row, P prefix tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Ask(NamedTuple):
    """One question after an image's prefix."""

    text: tuple[int, ...]
    """Everything from the prefix to the point where the answer starts."""
    choices: tuple[tuple[int, ...], ...]
    """The ids of every choice, without their end."""


class Row(NamedTuple):
    """One image with all its questions."""

    ids: list[int]
    positions: list[int]
    question: list[int]
    """0 in the prefix, k in question k."""
    choice: list[int]
    """0 in prefix and texts, k in choice k of a question."""
    places: list[int]
    """Where a next token is read: the end of every text and every token of a choice."""
    reads: list[tuple[int, int, int, int]]
    """(question, choice, index into `places`, next token), both counted from 0; a choice ends with eos."""


def lay_out(prefix: Sequence[int], asks: Sequence[Ask], eos: int) -> Row:
    """The row of one image."""
    size = len(prefix)
    row = Row([*prefix], list(range(size)), [0] * size, [0] * size, [], [])
    for number, ask in enumerate(asks):
        _extend(row, ask.text, size, number + 1, 0)
        start = len(row.places)
        row.places.append(len(row.ids) - 1)
        for which, ids in enumerate(ask.choices):
            first = len(row.places)
            _extend(row, ids, size + len(ask.text), number + 1, which + 1)
            row.places.extend(range(len(row.ids) - len(ids), len(row.ids)))
            sources = [start, *range(first, len(row.places))]
            row.reads.extend(
                (number, which, source, token) for source, token in zip(sources, (*ids, eos), strict=True)
            )
    return row


def _extend(row: Row, ids: Sequence[int], position: int, question: int, choice: int) -> None:
    row.ids.extend(ids)
    row.positions.extend(range(position, position + len(ids)))
    row.question.extend([question] * len(ids))
    row.choice.extend([choice] * len(ids))


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """int64 [B, T], filled up on the right."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


def row_mask(question: Tensor, choice: Tensor, prefix: Tensor) -> Tensor:
    """[B, 1, T, T], True = may attend, from [B, T] each and the prefix's own rule [P, P].

    Padding (question -1) sees the prefix, so that no row of the mask is empty; nothing sees padding.
    """
    causal = torch.ones(question.shape[1], question.shape[1], dtype=torch.bool).tril()
    same = question[:, :, None] == question[:, None, :]
    alike = (choice[:, None, :] == 0) | (choice[:, :, None] == choice[:, None, :])
    mask = causal & same & alike & (question[:, None, :] > 0)
    mask |= question[:, None, :] == 0
    size = len(prefix)
    mask[:, :size, :size] = prefix
    return mask[:, None]
