"""What a language model is asked: to write questions about a caption, and to answer one from it.

Captions, questions and choices come from data that nobody vouches for. Each becomes one line of bounded
length without what a model could take for control tokens, so that it can neither leave its place nor add
lines of its own; what the model then writes is read strictly (`parsing.py`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable

from curate.questions.parsing import SCHEMA, Style
from curate.questions.tifa import TYPES
from curate.scoring.endpoint import Request
from engine.records import Question

MOST_CAPTION = 1000
"""Characters of a caption that a model gets to see."""
BREAKS = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that become blanks: control characters, half surrogates, line separators."""
CONTROL = re.compile(r"<<?/?[^<>\s]+>>?|\[/?\w+\]")
"""Texts in the form of control tokens: <s>, <|im_end|>, <<SYS>>, [INST]. The tokenizer is the endpoint's, so
none is known for certain."""
# The input that TIFA's generator was trained on, to the letter: with other words it is another model.
TIFA_SYSTEM = (
    "Given an image description, generate one or two multiple-choice questions that verifies if the image"
    " description is correct.\nClassify each concept into a type (object, human, animal, food, activity,"
    " attribute, counting, color, material, spatial, location, shape, other), and then generate a question"
    " for each type.\n"
)

EXAMPLES = (
    ("Two children fly a yellow kite on a windy hill.", (
        ("children", "human", "are there children?", ("yes", "no"), "yes"),
        ("kite", "object", "what do the children fly?", ("kite", "balloon", "drone", "flag"), "kite"),
        ("hill", "location", "where are the children?", ("hill", "beach", "street", "forest"), "hill"),
        ("fly", "activity", "are the children flying the kite?", ("yes", "no"), "yes"),
        ("yellow", "color", "what color is the kite?", ("yellow", "red", "green", "white"), "yellow"),
        ("two", "counting", "how many children are there?", ("1", "2", "3", "4"), "2"),
        ("windy", "attribute", "is the hill windy or calm?", ("windy", "calm"), "windy"),
    )),
    ("A charcoal drawing of a wooden chair beside a bowl of soup", (
        ("chair", "object", "is there a chair?", ("yes", "no"), "yes"),
        ("soup", "food", "what is in the bowl?", ("soup", "fruit", "rice", "salad"), "soup"),
        ("wooden", "material", "what is the chair made of?", ("wood", "metal", "plastic", "stone"), "wood"),
        ("beside", "spatial", "where is the chair?",
         ("beside the bowl", "under the bowl", "inside the bowl", "on the bowl"), "beside the bowl"),
        ("charcoal drawing", "other", "what kind of picture is this?",
         ("charcoal drawing", "photograph", "oil painting", "cartoon"), "charcoal drawing"),
    )),
)  # fmt: skip
"""Captions, and for each its questions as (element, type, question, choices, answer)."""

TASK = f"""\
Write multiple-choice questions that check whether a picture shows what its caption says.
Ask one or two questions about each element of the caption: things, actions, and properties. A question must
be answerable from the caption alone. Give two to four choices that exclude each other, and repeat the right
one as the answer, in the same words.
The type of an element is one of: {", ".join(TYPES)}.
Write JSON exactly as in these examples, and nothing else.
"""

READING = """\
Answer the question from the caption alone. Repeat one of the choices, in the same words, and nothing else.
"""


def one_line(text: str, most: int) -> str:
    """Text from data as one line of at most `most` characters without anything like a control token."""
    shown = (" " if unicodedata.category(one) in BREAKS else one for one in text[: 4 * most])
    line = " ".join("".join(shown).split())
    while CONTROL.search(line):
        line = " ".join(CONTROL.sub(" ", line).split())
    return line[:most].rstrip()


def writing_request(style: Style, caption: str) -> Request:
    """Asks for the questions of a caption.

    `tifa` is the input of TIFA's generator as its authors' script builds it, and takes no chat template.
    """
    line = one_line(caption, MOST_CAPTION)
    if style == "tifa":
        text = f"<s>[INST] <<SYS>>\n{TIFA_SYSTEM}\n<</SYS>>\n\nDescription: {line} [/INST] Entities:"
        return {"prompt": text, "stop": ["\n\n"]}
    shown = "\n".join(f"Caption: {told}\n{written(rows)}\n" for told, rows in EXAMPLES)
    schema = {"name": "questions", "schema": SCHEMA, "strict": True}
    return {
        **_chat(f"{TASK}\n{shown}\nCaption: {line}\n"),
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


def written(rows: Iterable[tuple[str, str, str, tuple[str, ...], str]]) -> str:
    """Questions, each as (element, type, question, choices, answer), as a model writes them."""
    names = ("element", "type", "question", "choices", "answer")
    return json.dumps({"questions": [dict(zip(names, row, strict=True)) for row in rows]})


def reading_request(caption: str, question: Question) -> Request:
    """Asks for the answer to a question from the caption and the choices, as TIFA's filter does."""
    choices = " | ".join(one_line(choice, MOST_CAPTION) for choice in question.choices)
    return _chat(
        f"{READING}\nCaption: {one_line(caption, MOST_CAPTION)}\n"
        f"Question: {one_line(question.question, MOST_CAPTION)}\nChoices: {choices}\nAnswer:"
    )


def _chat(text: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}]}
