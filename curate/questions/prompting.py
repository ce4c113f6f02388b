"""What a language model is asked: to write questions about a caption, and to answer one from it.

Captions, questions and choices come from data that nobody vouches for. Each becomes one line of bounded
length without the model's control tokens, so that it can neither leave its place nor add lines of its own;
what the model then writes is read strictly (`parsing.py`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from curate.questions.layout import LAYOUTS, Style, written
from curate.questions.tifa import TYPES
from engine.records import Question, TextPrompt

MOST_CAPTION = 1000
"""Characters of a caption that a model gets to see."""
BREAKS = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that become blanks: control characters, half surrogates, line separators."""
TIFA_MARKS = ("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
"""Control texts of Llama 2's chat format, which TIFA's generator knows as plain text."""
# The input that TIFA's generator was trained on, to the letter: with other words it is another model.
TIFA_SYSTEM = (
    "Given an image description, generate one or two multiple-choice questions that verifies if the image"
    " description is correct.\nClassify each concept into a type (object, human, animal, food, activity,"
    " attribute, counting, color, material, spatial, location, shape, other), and then generate a question"
    " for each type.\n"
)

EXAMPLES = (
    (
        "Two children fly a yellow kite on a windy hill.",
        (
            ("children", "human", "are there children?", ("yes", "no"), "yes"),
            ("kite", "object", "what do the children fly?", ("kite", "balloon", "drone", "flag"), "kite"),
            ("hill", "location", "where are the children?", ("hill", "beach", "street", "forest"), "hill"),
            ("fly", "activity", "are the children flying the kite?", ("yes", "no"), "yes"),
            ("yellow", "color", "what color is the kite?", ("yellow", "red", "green", "white"), "yellow"),
            ("two", "counting", "how many children are there?", ("1", "2", "3", "4"), "2"),
            ("windy", "attribute", "is the hill windy or calm?", ("windy", "calm"), "windy"),
        ),
    ),
    (
        "A charcoal drawing of a wooden chair beside a bowl of soup",
        (
            ("chair", "object", "is there a chair?", ("yes", "no"), "yes"),
            ("soup", "food", "what is in the bowl?", ("soup", "fruit", "rice", "salad"), "soup"),
            (
                "wooden",
                "material",
                "what is the chair made of?",
                ("wood", "metal", "plastic", "stone"),
                "wood",
            ),
            (
                "beside",
                "spatial",
                "where is the chair?",
                ("beside the bowl", "under the bowl", "inside the bowl", "on the bowl"),
                "beside the bowl",
            ),
            (
                "charcoal drawing",
                "other",
                "what kind of picture is this?",
                ("charcoal drawing", "photograph", "oil painting", "cartoon"),
                "charcoal drawing",
            ),
        ),
    ),
)
"""Captions, and for each its questions as (element, type, question, choices, answer)."""

TASK = f"""\
Write multiple-choice questions that check whether a picture shows what its caption says.
First list the elements of the caption: things, actions, and properties. Then ask one or two questions about
each element. A question must be answerable from the caption alone. Give two to four choices that exclude
each other, and repeat the right one as the answer, in the same words.
The type of an element is one of: {", ".join(TYPES)}.
Write the lines exactly as in these examples, and nothing else.
"""

READING = """\
Answer the question from the caption alone. Repeat one of the choices, in the same words, and nothing else.
"""


def one_line(text: str, most: int, reserved: Iterable[str]) -> str:
    """Text from data as one line of at most `most` characters without any `reserved` text."""
    marks = sorted((mark for mark in reserved if mark.strip()), key=len, reverse=True)
    shown = (" " if unicodedata.category(one) in BREAKS else one for one in text[: 4 * most])
    line = " ".join("".join(shown).split())
    while any(mark in line for mark in marks):
        for mark in marks:
            line = line.replace(mark, " ")
        line = " ".join(line.split())
    return line[:most].rstrip()


def writing_prompt(style: Style, caption: str, reserved: Iterable[str]) -> TextPrompt:
    """Asks for the questions of a caption.

    `tifa` is the input of TIFA's generator as its authors' script builds it, and takes no chat template.
    """
    line = one_line(caption, MOST_CAPTION, (*reserved, *TIFA_MARKS))
    if style == "tifa":
        text = f"<s>[INST] <<SYS>>\n{TIFA_SYSTEM}\n<</SYS>>\n\nDescription: {line} [/INST] Entities:"
        return TextPrompt(text=text, chat=False)
    shown = "\n".join(f"Caption: {told}\n{written('instruct', _asked(rows))}" for told, rows in EXAMPLES)
    return TextPrompt(text=f"{TASK}\n{shown}\nCaption: {line}\n")


def writing_stops(style: Style) -> tuple[str, ...]:
    """Texts with which the questions of one caption end."""
    return ("\n\n",) if style == "tifa" else ("\nCaption:",)


def reading_prompt(caption: str, question: Question, reserved: Iterable[str]) -> TextPrompt:
    """Asks for the answer to a question from the caption and the choices, as TIFA's filter does."""
    marks = (*reserved, *TIFA_MARKS)
    choices = LAYOUTS["instruct"].between.join(
        one_line(choice, MOST_CAPTION, marks) for choice in question.choices
    )
    return TextPrompt(
        text=f"{READING}\nCaption: {one_line(caption, MOST_CAPTION, marks)}\n"
        f"Question: {one_line(question.question, MOST_CAPTION, marks)}\nChoices: {choices}\nAnswer:"
    )


def _asked(rows: Iterable[tuple[str, str, str, tuple[str, ...], str]]) -> list[Question]:
    return [
        Question(question=text, choices=choices, answer=answer, kind=kind, element=element)
        for element, kind, text, choices, answer in rows
    ]
