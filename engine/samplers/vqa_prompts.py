"""VQA prompts: a question as a model is asked it, and the answer that reading its choices gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.errors import InputError
from engine.models.showo_config import ShowoConfig
from engine.records import Answer, AnswerSettings, Question
from engine.samplers.choices import ChoiceLogprob
from engine.samplers.continuations import TokenizedQuestion

Encode = Callable[[str], list[int]]


def format_question(config: ShowoConfig, question: Question, settings: AnswerSettings) -> str:
    """What the model reads: with the choices as the official script writes them, a Python list of strings."""
    if settings.name_choices and question.choices and config.vqa_choices_prompt:
        return config.vqa_choices_prompt.format(question=question.question, choices=list(question.choices))
    return config.vqa_prompt.format(question=question.question)


def tokenized(text: Sequence[int], question: Question, encode: Encode) -> TokenizedQuestion:
    """The question after its image, from the ids of its words, with its choices as continuations.

    Raises:
        InputError: the tokenizer makes nothing of a choice.
    """
    choices = tuple(tuple(encode(f" {choice}")) for choice in question.choices)
    for choice, ids in zip(question.choices, choices, strict=True):
        if not ids:
            raise InputError(f"the choice {choice!r} of {question.question!r} has no token; remove it")
    return TokenizedQuestion(text=tuple(text), choices=choices)


def answer_room(config: ShowoConfig, choices: Sequence[Sequence[int]]) -> int:
    """Tokens at which a free text ends at the latest: the model's, but no fewer than a choice and its end."""
    return max([config.answer_tokens, *(len(ids) + 1 for ids in choices)])


def answer_from_choices(
    question: Question, read: Sequence[ChoiceLogprob], settings: AnswerSettings
) -> Answer | None:
    """The choice that reading them all gives, or None where the text must be decoded.

    Raises:
        InputError: likelihood mode, and there are no choices.
    """
    logps = tuple(choice.logp for choice in read)
    if settings.mode == "likelihood":
        if not read:
            raise InputError(
                f"{question.question!r} has no choices to compare; ask it in the answer mode text"
            )
        best = max(range(len(logps)), key=lambda index: logps[index])
    else:
        greedy = [index for index, choice in enumerate(read) if all(choice.greedy)]
        if not greedy:
            return None
        best = greedy[0]
    return Answer(text=question.choices[best], choice_logps=logps, choice=best)
