"""Self-VQA: the model answers questions about its own images (TIFA accuracy, arXiv 2303.11897)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from curate.answers import same_choice
from curate.scoring.similarity import Similarity, cosines
from engine.records import Answer, Question


def match_choice(text: str, choices: Sequence[str], similarity: Similarity) -> str:
    """The choice that a free-text answer means: the same words, else the most similar sentence.

    Source: the official script, which takes the nearest choice by sentence similarity always.
    """
    if (same := same_choice(text, choices)) is not None:
        return same
    plain = text.strip().strip(".").lower()
    if not plain:
        return ""
    return choices[int(cosines(similarity.embed([plain, *choices])).argmax())]


def accuracy(questions: Sequence[Question], answers: Sequence[str | None]) -> float:
    """Share of questions answered rightly; there must be some."""
    right = sum(q.answer == a for q, a in zip(questions, answers, strict=True))
    return right / len(questions)


LIKELIHOOD_DIGITS = 4
"""Of a likelihood, in nats: what stands behind them depends on which images shared a batch."""


def likelihood(questions: Sequence[Question], answers: Sequence[Answer]) -> float | None:
    """How sure the model is of the right choices, at most 0: the mean over the questions of the right
    choice's log-softmax over the log-probs of the question's choices. None where choices were not read, or
    the right one is not among them.

    A choice's log-prob counts all its tokens and its end, so that the softmax is over whole answers.
    """
    pairs = list(zip(questions, answers, strict=True))
    if not pairs or not all(a.choice_logps and q.answer in q.choices for q, a in pairs):
        return None
    mean = sum(a.choice_logps[q.choices.index(q.answer)] - _logsumexp(a.choice_logps) for q, a in pairs)
    return round(mean / len(pairs), LIKELIHOOD_DIGITS) + 0.0 if math.isfinite(mean) else None


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values)) if math.isfinite(top) else top


def matched(
    questions: Sequence[Question], answers: Sequence[Answer], similarity: Similarity
) -> tuple[str, ...]:
    """Each answer as one of its question's choices; what was decided token by token stays decided."""
    return tuple(
        match_choice(answer.text, question.choices, similarity)
        if answer.choice is None
        else question.choices[answer.choice]
        for question, answer in zip(questions, answers, strict=True)
    )
