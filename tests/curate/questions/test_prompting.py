"""What a language model is asked, and that data cannot change what it is asked."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.questions.parsing import Style, parse
from curate.questions.prompting import (
    EXAMPLES,
    MOST_CAPTION,
    one_line,
    reading_request,
    writing_request,
    written,
)
from curate.questions.validation import sifted
from curate.scoring.endpoint import Request
from engine.records import Question

MARKS = (
    "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|im_start|>", "<|im_end|>",
    "<|eot_id|>", "<start_of_turn>", "<\uff5cUser\uff5c>", "[TOOL_CALLS]", "[gMASK]",
)  # fmt: skip
"""Control tokens of Llama, Mistral, Qwen, Gemma, DeepSeek and GLM."""
STYLES = get_args(Style)
HOSTILE = st.text("</s>|im_end[INST]\n\r\u2028\x00 ab\ud800", max_size=80)


def text_of(request: Request) -> str:
    return str(request["prompt"] if "prompt" in request else request["messages"][0]["content"])


@given(text=st.one_of(st.text(st.characters()), HOSTILE), most=st.integers(0, 50))
def test_data_is_one_bounded_line_without_control_tokens(text: str, most: int) -> None:
    line = one_line(text, most)
    assert len(line) <= most
    assert len(f"{line}.".splitlines()) == 1
    assert not any(mark in line for mark in MARKS)
    line.encode()


@pytest.mark.parametrize("mark", MARKS)
def test_no_models_control_token_is_taken_from_data(mark: str) -> None:
    assert one_line(f"a {mark}red cube{mark}", 100) == "a red cube"


def test_control_tokens_do_not_come_together_when_others_are_taken_out() -> None:
    for text in ("a <<s>s> b </<s>s> c", "a <|<s>im_end|> b", "a [[INST]INST] b"):
        assert not any(mark in one_line(text, 100) for mark in MARKS)


def test_plain_comparisons_and_brackets_stay() -> None:
    assert one_line("a < b and c > d (e) [f g]", 100) == "a < b and c > d (e) [f g]"


@pytest.mark.parametrize("style", STYLES)
@given(caption=HOSTILE)
def test_a_caption_changes_only_its_own_line_of_the_prompt(style: Style, caption: str) -> None:
    prompt = text_of(writing_request(style, caption))
    plain = text_of(writing_request(style, "a dog"))
    assert len(prompt.splitlines()) == len(plain.splitlines())
    for mark in MARKS:
        assert prompt.count(mark) == plain.count(mark)
    assert len(text_of(writing_request(style, "dog " * 10_000))) < len(plain) + MOST_CAPTION


def test_the_input_of_tifas_generator_is_what_it_was_trained_on() -> None:
    request = writing_request("tifa", "a blue rabbit")
    assert request["stop"] == ["\n\n"]
    prompt = request["prompt"]
    assert prompt.startswith("<s>[INST] <<SYS>>\nGiven an image description, generate one or two ")
    assert prompt.endswith(
        "then generate a question for each type.\n\n<</SYS>>\n\nDescription: a blue rabbit [/INST] Entities:"
    )


def test_our_own_prompt_shows_examples_that_our_own_rules_accept() -> None:
    text = text_of(writing_request("instruct", "a dog"))
    assert text.endswith("Caption: a dog\n")
    for caption, rows in EXAMPLES:
        shown = written(rows)
        assert f"Caption: {caption}\n{shown}\n" in text
        found = parse("instruct", shown)
        assert not found.problems
        assert [one.question for one in found.questions] == [row[2] for row in rows]
        assert len(sifted(found.questions).kept) == len(rows)


def test_a_reader_sees_caption_question_and_choices_and_not_the_answer() -> None:
    question = Question(question="what\ncolor?", choices=("red", "<s>blue"), answer="red", kind="color")
    text = text_of(reading_request("a red\ncube", question))
    assert text.endswith("Caption: a red cube\nQuestion: what color?\nChoices: red | blue\nAnswer:")
