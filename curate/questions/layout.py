"""How a language model writes questions down: the lines of each style, and the writing of them.

`tifa` is what TIFA's released generator (a fine-tuned Llama 2) writes; `instruct` is ours, for any model that
follows instructions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from curate.questions.tifa import LIVING
from engine.records import Question, Record

Style = Literal["instruct", "tifa"]


class Layout(Record):
    """The words that begin the lines of a style."""

    element: str
    """Before `ELEMENT (TYPE):`."""
    question: str
    choices: str
    answer: str
    between: str
    """What stands between two choices."""
    headings: tuple[tuple[str, tuple[str, ...]], ...]
    """The lists of elements that come first: heading -> types; a heading without types takes all others."""
    opening: str
    """The line between the lists and the questions; may be empty."""


LAYOUTS: dict[Style, Layout] = {
    "tifa": Layout(
        element="About",
        question="Q:",
        choices="Choices:",
        answer="A:",
        between=", ",
        headings=(
            ("Entities:", ("object", "human", "animal", LIVING, "food", "location")),
            ("Activities:", ("activity",)),
            ("Colors:", ("color",)),
            ("Counting:", ("counting",)),
            ("Other attributes:", ()),
        ),
        opening="Questions and answers are below:",
    ),
    "instruct": Layout(
        element="Element:",
        question="Question:",
        choices="Choices:",
        answer="Answer:",
        between=" | ",
        headings=(
            ("Things:", ("object", "human", "animal", LIVING, "food", "location")),
            ("Actions:", ("activity",)),
            ("Properties:", ()),
        ),
        opening="",
    ),
}


def written(style: Style, questions: Sequence[Question]) -> str:
    """Questions as a model of this style writes them, from the first heading on."""
    layout = LAYOUTS[style]
    lines = [*_lists(layout, questions), layout.opening]
    about = None
    for one in questions:
        if about != (one.element, one.kind):
            about = (one.element, one.kind)
            kind = "animal" if one.kind == LIVING else one.kind
            lines.append(f"{layout.element} {one.element} ({kind}):")
        lines += [
            f"{layout.question} {one.question}",
            f"{layout.choices} {layout.between.join(one.choices)}",
            f"{layout.answer} {one.answer}",
        ]
    return "\n".join(line for line in lines if line) + "\n"


def _lists(layout: Layout, questions: Iterable[Question]) -> list[str]:
    """The elements under their headings."""
    elements = {one.element: one.kind for one in questions}
    named = {kind for _, kinds in layout.headings for kind in kinds}
    return [
        " ".join(
            [
                heading,
                ", ".join(
                    element
                    for element, kind in elements.items()
                    if (kind in kinds if kinds else kind not in named)
                ),
            ]
        ).rstrip()
        for heading, kinds in layout.headings
    ]
