"""Self-VQA: the model answers questions about its own images (TIFA accuracy, arXiv 2303.11897)."""

from __future__ import annotations

from collections.abc import Sequence

from curate.similarity import Similarity
from engine.records import Answer, Question


def match_choice(text: str, choices: Sequence[str], similarity: Similarity) -> str:
    """The choice that a free-text answer means: the same words, else the most similar sentence.

    Source: the official script, which takes the nearest choice by sentence similarity always.
    """
    plain = _plain(text)
    for choice in choices:
        if choice.lower() == plain:
            return choice
    if not plain:
        return ""
    vectors = similarity.embed([plain, *choices])
    return choices[int((vectors[1:] @ vectors[0]).argmax())]


def compared(questions: Sequence[Question], answers: Sequence[Answer]) -> list[str]:
    """The texts that `matched` will embed; embedding those of many images at once is cheaper."""
    found: list[str] = []
    for question, answer in zip(questions, answers, strict=True):
        plain = _plain(answer.text)
        if plain and plain not in (choice.lower() for choice in question.choices):
            found += [plain, *question.choices]
    return found


def _plain(text: str) -> str:
    return text.strip().strip(".").lower()


def accuracy(questions: Sequence[Question], answers: Sequence[str | None]) -> float:
    """Share of questions answered rightly; 0 for none asked."""
    if not questions:
        return 0.0
    right = sum(q.answer == a for q, a in zip(questions, answers, strict=True))
    return right / len(questions)


def matched(
    questions: Sequence[Question], answers: Sequence[Answer], similarity: Similarity
) -> tuple[str, ...]:
    """Each answer as one of its question's choices."""
    return tuple(
        match_choice(answer.text, question.choices, similarity)
        for question, answer in zip(questions, answers, strict=True)
    )
