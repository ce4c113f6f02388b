"""Items of the shapes world as pretraining texts, and the words that its tokenizer must know."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from curate.shapes.captions import RELATION_WORDS, plural, write_caption
from curate.shapes.questions import relation_questions, write_questions
from curate.shapes.scene import COLORS, NUMBERS, SHAPES, render
from curate.shapes.world import draw, image_facts
from engine.records import Record

CAPTION_PROMPT = "caption:"
VQA_PROMPT = "{question}"


class Lesson(Record):
    """One image with its caption and with questions about all that it shows."""

    image: NDArray[np.uint8]
    caption: str
    questions: tuple[tuple[str, str], ...]
    """(question, answer)."""
    relations: tuple[tuple[str, str], ...]
    """All relation questions that the image answers; they are learned last."""


def lesson(split: str, seed: int, index: int) -> Lesson:
    """Lesson number `index`: questions about the caption's facts and about the image's."""
    facts, scene, rng = draw(split, seed, index)
    caption = write_caption(facts, rng)
    asked = {q.question: q.answer for q in write_questions(facts, rng, sides=1)}
    seen = image_facts(scene)
    shown = write_questions(seen, rng, sides=1)
    asked |= {q.question: q.answer for q in shown}
    names = sorted(asked)
    picked = [names[i] for i in rng.permutation(len(names))[:6]]
    return Lesson(
        image=render(scene),
        caption=caption,
        questions=tuple((name, asked[name]) for name in picked),
        relations=tuple((q.question, q.answer) for q in relation_questions(seen)),
    )


def words() -> Iterator[str]:
    """Every text fragment that captions, questions and answers are made of."""
    yield from SHAPES
    yield from map(plural, SHAPES)
    yield from COLORS
    yield from NUMBERS
    yield from RELATION_WORDS.values()
    yield from (CAPTION_PROMPT, "a picture of", "an image with", "there is are, and yes no")
    yield "is there what shape is shown? what color are the objects? how many object are there?"
    yield "where is the relative to the? left right above below"
