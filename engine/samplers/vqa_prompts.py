"""A question as a model is asked it, its choices as drafts of the answer, and the answer they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.errors import InputError
from engine.models.showo_config import ShowoConfig
from engine.records import Answer, AnswerSettings, Question
from engine.samplers.choice_rows import Ask
from engine.samplers.choices import Chosen

ANSWER_TOKENS = 8
"""A free text ends here at the latest."""

Encode = Callable[[str], list[int]]


def wording(config: ShowoConfig, question: Question, settings: AnswerSettings) -> str:
    """What the model reads: with the choices as the official script writes them, a Python list of strings."""
    if settings.name_choices and question.choices and config.vqa_choices_prompt:
        return config.vqa_choices_prompt.format(question=question.question, choices=list(question.choices))
    return config.vqa_prompt.format(question=question.question)


def ask(text: Sequence[int], question: Question, encode: Encode) -> Ask:
    """The question after its image, from the ids of its wording, with its choices as continuations.

    Raises:
        InputError: the tokenizer makes nothing of a choice.
    """
    choices = tuple(tuple(encode(f" {choice}")) for choice in question.choices)
    for choice, ids in zip(question.choices, choices, strict=True):
        if not ids:
            raise InputError(f"the choice {choice!r} of {question.question!r} has no token; remove it")
    return Ask(text=tuple(text), choices=choices)


def settled(
    question: Question,
    choices: Sequence[Sequence[int]],
    chosen: Sequence[Chosen],
    settings: AnswerSettings,
    decode: Callable[[Sequence[int]], str],
) -> Answer | None:
    """The answer that reading a question's choices gives, or None where the text must be decoded.

    Raises:
        InputError: likelihood mode, and there are no choices.
    """
    logps = tuple(choice.logp for choice in chosen)
    if settings.mode == "likelihood":
        if not chosen:
            raise InputError(
                f"{question.question!r} has no choices to compare; ask it in the answer mode text"
            )
        best = max(range(len(logps)), key=lambda index: logps[index])
        return Answer(text=question.choices[best], choice_logps=logps)
    greedy = next((i for i, choice in enumerate(chosen) if all(choice.greedy[:ANSWER_TOKENS])), None)
    if greedy is None:
        return None
    return Answer(text=decode(choices[greedy][:ANSWER_TOKENS]), choice_logps=logps)
