"""What a language model is asked, and that data cannot change what it is asked."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.questions.layout import Style, written
from curate.questions.parsing import parse
from curate.questions.prompting import (
    EXAMPLES,
    MOST_CAPTION,
    TIFA_MARKS,
    one_line,
    reading_prompt,
    writing_prompt,
)
from curate.questions.validation import sifted
from engine.records import Question

RESERVED = ("<s>", "</s>", "<|im_end|>", "  ")
STYLES = get_args(Style)
HOSTILE = st.text("</s>|im_end[INST]\n\r\u2028\x00 ab\ud800", max_size=80)


@given(text=st.one_of(st.text(st.characters()), HOSTILE), most=st.integers(0, 50))
def test_data_is_one_bounded_line_without_control_tokens(text: str, most: int) -> None:
    line = one_line(text, most, RESERVED)
    assert len(line) <= most
    assert len(f"{line}.".splitlines()) == 1
    assert not any(mark in line for mark in RESERVED)
    line.encode()


def test_control_tokens_do_not_come_together_when_others_are_taken_out() -> None:
    assert one_line("a <<s>s> b </<s>s> c", 100, RESERVED) == "a < s> b </ s> c"
    assert one_line("a <|<s>x|> b", 100, ("<s>", "<| x|>")) == "a b"


@pytest.mark.parametrize("style", STYLES)
@given(caption=HOSTILE)
def test_a_caption_changes_only_its_own_line_of_the_prompt(style: Style, caption: str) -> None:
    prompt = writing_prompt(style, caption, RESERVED).text
    plain = writing_prompt(style, "a dog", RESERVED).text
    assert len(prompt.splitlines()) == len(plain.splitlines())
    for mark in TIFA_MARKS:
        assert prompt.count(mark) == plain.count(mark)
    assert len(writing_prompt(style, "dog " * 10_000, ()).text) < len(plain) + MOST_CAPTION


def test_the_input_of_tifas_generator_is_what_it_was_trained_on() -> None:
    prompt = writing_prompt("tifa", "a blue rabbit", ())
    assert not prompt.chat
    assert prompt.text.startswith("<s>[INST] <<SYS>>\nGiven an image description, generate one or two ")
    assert prompt.text.endswith(
        "then generate a question for each type.\n\n<</SYS>>\n\nDescription: a blue rabbit [/INST] Entities:"
    )


def test_our_own_prompt_shows_examples_that_our_own_rules_accept() -> None:
    prompt = writing_prompt("instruct", "a dog", ())
    assert prompt.chat
    assert prompt.text.endswith("Caption: a dog\n")
    for caption, rows in EXAMPLES:
        questions = [
            Question(question=text, choices=choices, answer=answer, kind=kind, element=element)
            for element, kind, text, choices, answer in rows
        ]
        shown = written("instruct", questions)
        assert f"Caption: {caption}\n{shown}" in prompt.text
        found = parse("instruct", shown)
        assert not found.problems
        assert len(sifted(found.questions).kept) == len(rows)


def test_a_reader_sees_caption_question_and_choices_and_not_the_answer() -> None:
    question = Question(question="what\ncolor?", choices=("red", "<s>blue"), answer="red", kind="color")
    text = reading_prompt("a red\ncube", question, RESERVED).text
    assert text.endswith("Caption: a red cube\nQuestion: what color?\nChoices: red | blue\nAnswer:")
