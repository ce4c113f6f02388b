"""What TIFA's released generator writes."""

from __future__ import annotations

from collections.abc import Sequence

from curate.questions.tifa import LIVING
from engine.records import Question

HEADINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Entities:", ("object", "human", "animal", LIVING, "food", "location")),
    ("Activities:", ("activity",)),
    ("Colors:", ("color",)),
    ("Counting:", ("counting",)),
)


def generator_text(questions: Sequence[Question]) -> str:
    """Questions with their lists of elements, from the first heading on."""
    elements = {one.element: one.kind for one in questions}
    named = {kind for _, kinds in HEADINGS for kind in kinds}
    lines = [
        f"{heading} {', '.join(one for one, kind in elements.items() if kind in kinds)}".rstrip()
        for heading, kinds in HEADINGS
    ]
    others = ", ".join(one for one, kind in elements.items() if kind not in named)
    lines += [f"Other attributes: {others}".rstrip(), "Questions and answers are below:"]
    about = None
    for one in questions:
        if about != (one.element, one.kind):
            about = (one.element, one.kind)
            lines.append(f"About {one.element} ({'animal' if one.kind == LIVING else one.kind}):")
        lines += [f"Q: {one.question}", f"Choices: {', '.join(one.choices)}", f"A: {one.answer}"]
    return "\n".join(lines) + "\n"
