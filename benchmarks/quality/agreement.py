"""How far a critic's scores of painted images agree with the pixel oracle's.

The critic is whoever scored the candidates of a curation: the model itself, or a judge. What matters of it is
the order in which it puts an item's images, since winner and loser come from that order.

Legend: N images of an item, Q questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.clustered import Estimate, mean, ratio
from curate.shapes import oracle
from engine.records import Candidates, ImagePair, Question, Record

Decode = Callable[[Sequence[Sequence[int]]], NDArray[np.uint8]]
Answers = tuple[str | None, ...]


class Judged(Record):
    """What critic and oracle said of the images of one item."""

    questions: tuple[Question, ...]
    critic: tuple[Answers, ...]
    """[N][Q]"""
    oracle: tuple[Answers, ...]
    """[N][Q]; None where the picture gives no answer."""
    scores: tuple[float, ...]
    """The critic's, by which it chooses, [N]."""
    pair: tuple[float, float] | None = None
    """The oracle's accuracy of winner and loser; None where the item has no pair of images."""

    @property
    def truth(self) -> tuple[float, ...]:
        """The oracle's accuracy of each image, [N]."""
        return tuple(_accuracy(self.questions, answers) for answers in self.oracle)


class AnswerAgreement(Record):
    """Answers about the images, one by one."""

    same: Estimate
    """Share of the critic's answers that are the oracle's; never where the oracle has none."""
    critic: Estimate
    """Share that is right by the critic's answers."""
    oracle: Estimate
    """Share that is right by the oracle's."""
    unclear: Estimate
    """Share to which the oracle sees no answer."""


class Agreement(Record):
    """What a critic's scores are worth by the oracle. Errors are clustered by item."""

    items: int
    """With questions and at least two images."""
    images: int
    selection: Estimate
    """How often the critic's best is among the oracle's best; of several best it takes each equally often."""
    selection_by_chance: Estimate
    """Likewise of an image drawn evenly from all of the item's."""
    accuracy_of_any: Estimate
    """The oracle's accuracy of an image drawn evenly."""
    accuracy_of_chosen: Estimate
    """Of the critic's best."""
    accuracy_of_best: Estimate
    """Of the oracle's best: no critic chooses better."""
    pairs_right: Estimate
    """Share of the image pairs whose winner the oracle, too, finds better."""
    pairs_tied: Estimate
    pairs_wrong: Estimate
    rank_correlation: Estimate
    """Kendall's tau-b of an item's scores, mean over the items that have one."""
    without_order: int
    """Items without a tau-b, since critic or oracle scores all their images the same."""
    answers: AnswerAgreement
    by_kind: dict[str, AnswerAgreement]
    """Kind of question -> its answers."""


def _accuracy(questions: Sequence[Question], answers: Sequence[str | None]) -> float:
    return sum(q.answer == one for q, one in zip(questions, answers, strict=True)) / len(questions)


def judge_item(item: Candidates, pair: ImagePair | None, decode: Decode) -> Judged:
    """Shows an item's images, and its pair's if they are of another round, to the pixel oracle.

    Raises:
        ValueError: a question is not of the embedded world's grammar.
    """
    wanted = [image.codes for image in item.images]
    sides = [] if pair is None else [pair.win.codes, pair.lose.codes]
    codes = list(dict.fromkeys([*wanted, *sides]))
    seen: dict[tuple[int, ...], Answers] = {}
    if codes:
        pixels = decode(codes)
        seen = {one: oracle.judge(each, item.questions) for one, each in zip(codes, pixels, strict=True)}
    judged_pair = [_accuracy(item.questions, seen[one]) for one in sides if item.questions]
    return Judged(
        questions=item.questions,
        critic=tuple(image.answers for image in item.images),
        oracle=tuple(seen[one] for one in wanted),
        scores=tuple(image.score for image in item.images),
        pair=(judged_pair[0], judged_pair[1]) if judged_pair else None,
    )


def rank_correlation(scores: Sequence[float], truth: Sequence[float]) -> float | None:
    """Kendall's tau-b; None where either side is constant."""
    signs = [np.sign(np.subtract.outer(side, side)) for side in (np.array(scores), np.array(truth))]
    concordant = (signs[0] * signs[1]).sum()
    # Ordered pairs that either side orders: what is tied in both counts nowhere.
    ordered = [float((one**2).sum()) for one in signs]
    return float(concordant / np.sqrt(ordered[0] * ordered[1])) if all(ordered) else None


def _best(values: Sequence[float]) -> list[int]:
    top = max(values)
    return [index for index, value in enumerate(values) if value == top]


def _chosen(judged: Judged) -> tuple[float, float]:
    """(chance that the critic's best is among the oracle's, the oracle's accuracy of the critic's best)."""
    truth = judged.truth
    mine, theirs = _best(judged.scores), set(_best(truth))
    return sum(one in theirs for one in mine) / len(mine), sum(truth[one] for one in mine) / len(mine)


def _answers(items: Sequence[Judged], kind: str | None) -> AnswerAgreement:
    """Agreement on all questions, or on those of one kind."""
    same, critic, right, unclear, asked = [], [], [], [], []
    for item in items:
        picked = [i for i, question in enumerate(item.questions) if kind in (None, question.kind)]
        told = [
            (mine[i], theirs[i], item.questions[i].answer)
            for mine, theirs in zip(item.critic, item.oracle, strict=True)
            for i in picked
        ]
        if not told:
            continue
        same.append(sum(mine == theirs for mine, theirs, _ in told))
        critic.append(sum(mine == answer for mine, _, answer in told))
        right.append(sum(theirs == answer for _, theirs, answer in told))
        unclear.append(sum(theirs is None for _, theirs, _ in told))
        asked.append(len(told))
    return AnswerAgreement(
        same=ratio(same, asked),
        critic=ratio(critic, asked),
        oracle=ratio(right, asked),
        unclear=ratio(unclear, asked),
    )


def agreement(items: Sequence[Judged]) -> Agreement | None:
    """Compares both on all items with questions and at least two images; None where there is no such item."""
    usable = [item for item in items if item.questions and len(item.scores) > 1]
    if not usable:
        return None
    chosen = [_chosen(item) for item in usable]
    truths = [item.truth for item in usable]
    pairs = [item.pair for item in usable if item.pair is not None]
    taus = [rank_correlation(item.scores, truth) for item, truth in zip(usable, truths, strict=True)]
    ordered = [tau for tau in taus if tau is not None]
    kinds = sorted({question.kind for item in usable for question in item.questions})
    return Agreement(
        items=len(usable),
        images=sum(len(item.scores) for item in usable),
        selection=mean(hit for hit, _ in chosen),
        selection_by_chance=mean(len(_best(truth)) / len(truth) for truth in truths),
        accuracy_of_any=mean(sum(truth) / len(truth) for truth in truths),
        accuracy_of_chosen=mean(value for _, value in chosen),
        accuracy_of_best=mean(max(truth) for truth in truths),
        pairs_right=mean(float(win > lose) for win, lose in pairs),
        pairs_tied=mean(float(win == lose) for win, lose in pairs),
        pairs_wrong=mean(float(win < lose) for win, lose in pairs),
        rank_correlation=mean(ordered),
        without_order=len(taus) - len(ordered),
        answers=_answers(usable, None),
        by_kind={kind: _answers(usable, kind) for kind in kinds},
    )
