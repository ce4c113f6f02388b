"""A judge that answers questions from pixels alone, by segmentation and geometry, with no model.

It is strict where a picture is unclear: an object whose outline fits no shape, or whose pixels have no
dominant colour, matches no description, and a question about an object that is not there, or not
unique, gets no answer (None), which never equals the right one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from curate.shapes.questions import Query, read_question
from curate.shapes.scene import BACKGROUND, COLORS, NUMBERS, SHAPES, relation_between, silhouette
from engine.records import Question, Record

_PALETTE = np.array([BACKGROUND, *COLORS.values()], np.float32)
_MIN_AREA = 20
"""Pixels; the smallest object drawn (a cross of size 10) has 64."""
_MIN_FIT = 0.72
"""Intersection over union with the best silhouette."""
_MIN_PURITY = 0.6
"""Share of an object's pixels that its colour must have."""


class SeenObject(Record):
    """One object as found in the pixels; shape or color is None where the picture is unclear."""

    shape: str | None
    color: str | None
    x: float
    y: float
    area: int


def see(image: NDArray[np.uint8]) -> tuple[SeenObject, ...]:
    """All objects of an image [H, W, 3], in reading order of their centres."""
    distance = ((image.astype(np.float32)[:, :, None] - _PALETTE) ** 2).sum(-1)
    nearest = distance.argmin(-1)
    labels, _ = ndimage.label(nearest > 0)
    seen = []
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        mask = labels[box] == label
        area = int(mask.sum())
        if area < _MIN_AREA:
            continue
        votes = np.bincount(nearest[box][mask], minlength=len(_PALETTE))
        winner = int(votes.argmax())
        pure = votes[winner] >= _MIN_PURITY * votes.sum()
        seen.append(
            SeenObject(
                shape=_best_shape(mask),
                color=tuple(COLORS)[winner - 1] if pure else None,
                x=box[1].start + mask.shape[1] / 2,
                y=box[0].start + mask.shape[0] / 2,
                area=area,
            )
        )
    return tuple(sorted(seen, key=lambda one: (one.y, one.x)))


def _best_shape(mask: NDArray[np.bool_]) -> str | None:
    height, width = mask.shape
    if not 0.6 <= height / width <= 1 / 0.6:
        return None
    fits = {}
    for shape in SHAPES:
        drawn = silhouette(shape, height, width)
        fits[shape] = float((mask & drawn).sum() / (mask | drawn).sum())
    best = max(fits, key=lambda shape: fits[shape])
    return best if fits[best] >= _MIN_FIT else None


def _matching(seen: tuple[SeenObject, ...], thing: tuple[str | None, str | None]) -> list[SeenObject]:
    color, shape = thing
    return [
        one for one in seen if (color is None or one.color == color) and (shape is None or one.shape == shape)
    ]


def _common(values: list[str | None]) -> str | None:
    """The value that all share; None where there is none or they differ."""
    return values[0] if len(set(values)) == 1 else None


def answer_query(query: Query, seen: tuple[SeenObject, ...]) -> str | None:
    """The answer that the objects give; None where they give none."""
    found = _matching(seen, query.subject)
    if query.kind == "existence":
        return "yes" if found else "no"
    if query.kind == "count":
        return NUMBERS[len(found)] if len(found) < len(NUMBERS) else None
    if query.kind == "shape":
        return _common([one.shape for one in found])
    if query.kind == "color":
        return _common([one.color for one in found])
    other = _matching(seen, query.other)
    if len(found) != 1 or len(other) != 1:
        return None
    relation = relation_between(found[0].x - other[0].x, found[0].y - other[0].y)
    if query.kind == "where" or relation is None:
        return relation
    return "yes" if relation == query.relation else "no"


def judge(image: NDArray[np.uint8], questions: tuple[Question, ...]) -> tuple[str | None, ...]:
    """The oracle's answer to each question about an image [H, W, 3]; None where it has none.

    Raises:
        ValueError: a question is not of this world's grammar.
    """
    seen = see(image)
    answers = []
    for question in questions:
        query = read_question(question.question)
        if query is None:
            raise ValueError(f"the pixel oracle cannot read the question {question.question!r}")
        answers.append(answer_query(query, seen))
    return tuple(answers)
