"""Self-VQA: the model answers questions about its own images (TIFA accuracy, arXiv 2303.11897)."""

from __future__ import annotations

from collections.abc import Sequence

from curate.similarity import Similarity
from engine.records import Answer, Question


def match_choice(text: str, choices: Sequence[str], similarity: Similarity) -> str:
    """The choice that a free-text answer means: the same words, else the most similar sentence.

    Source: the official script, which takes the nearest choice by sentence similarity always.
    """
    plain = text.strip().strip(".").lower()
    for choice in choices:
        if choice.lower() == plain:
            return choice
    if not plain:
        return ""
    vectors = similarity.embed([plain, *choices])
    return choices[int((vectors[1:] @ vectors[0]).argmax())]


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
