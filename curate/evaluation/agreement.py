"""How far a judge's scores of generated images agree with the pixel oracle's.

The judge is whoever scored the candidates of a curation: the model itself, or a judge. What matters of it is
the order in which it puts an item's images, since winner and loser come from that order.

Legend: N images of an item, Q questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from curate.evaluation.clustered import Estimate, mean, ratio
from curate.scoring.self_vqa import accuracy
from curate.shapes import oracle
from engine.records import Candidates, ImagePair, Question, Record

Decode = Callable[[Sequence[Sequence[int]]], NDArray[np.uint8]]
Answers = tuple[str | None, ...]


class Judged(Record):
    """What judge and oracle said of the images of one item."""

    questions: tuple[Question, ...]
    judge: tuple[Answers, ...]
    """[N][Q]"""
    oracle: tuple[Answers, ...]
    """[N][Q]; None where the picture gives no answer."""
    scores: tuple[float, ...]
    """The judge's, [N]."""
    likelihoods: tuple[float, ...] | None = None
    """What decides between equal scores, [N]; None where an image has none."""
    pair: tuple[float, float] | None = None
    """The oracle's accuracy of winner and loser; None where the item has no pair of images."""

    @property
    def truth(self) -> tuple[float, ...]:
        """The oracle's accuracy of each image, [N]."""
        return tuple(accuracy(self.questions, answers) for answers in self.oracle)

    @property
    def ranks(self) -> tuple[float, ...]:
        """Places by score and then likelihood, the best highest, [N]; the scores where there is none."""
        if self.likelihoods is None:
            return self.scores
        both = list(zip(self.scores, self.likelihoods, strict=True))
        places = {one: float(place) for place, one in enumerate(sorted(set(both)))}
        return tuple(places[one] for one in both)


class AnswerAgreement(Record):
    """Answers about the images, one by one."""

    same: Estimate
    """Share of the judge's answers that are the oracle's; never where the oracle has none."""
    judge: Estimate
    """Share that is right by the judge's answers."""
    oracle: Estimate
    """Share that is right by the oracle's."""
    unclear: Estimate
    """Share to which the oracle sees no answer."""


class Choice(Record):
    """What choosing an item's best image is worth by the oracle."""

    selection: Estimate
    """How often the chosen image is among the oracle's best; of several best each is chosen equally often."""
    accuracy: Estimate
    """The oracle's accuracy of the chosen image."""


class Order(Choice):
    """What a judge's order of an item's images is worth."""

    rank_correlation: Estimate
    """Kendall's tau-b with the oracle's accuracies, mean over the items that have one."""
    without: int
    """Items that have none, since judge or oracle finds all their images equal."""


class Agreement(Record):
    """What a judge's scores are worth by the oracle. Errors are clustered by item."""

    items: int
    """With questions and at least two images."""
    images: int
    by_score: Order
    by_likelihood: Order | None
    """Likewise where likelihoods decide between equal scores; None where an image has none."""
    by_chance: Choice
    """Of an image drawn evenly."""
    best: Choice
    """Of the oracle's own best: no judge chooses better."""
    pairs_right: Estimate
    """Share of the image pairs whose winner the oracle, too, finds better."""
    pairs_tied: Estimate
    pairs_wrong: Estimate
    answers: AnswerAgreement
    by_kind: dict[str, AnswerAgreement]
    """Kind of question -> its answers."""


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
    likelihoods = tuple(one.likelihood for one in item.images if one.likelihood is not None)
    judged_pair = [accuracy(item.questions, seen[one]) for one in sides if item.questions]
    return Judged(
        questions=item.questions,
        judge=tuple(image.answers for image in item.images),
        oracle=tuple(seen[one] for one in wanted),
        scores=tuple(image.score for image in item.images),
        likelihoods=likelihoods if len(likelihoods) == len(item.images) else None,
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


def _choice(preferred: Sequence[Sequence[float]], truths: Sequence[Sequence[float]]) -> Choice:
    """Chooses each item's best by `preferred`, of several each equally often; both [items][N]."""
    hits, values = [], []
    for order, truth in zip(preferred, truths, strict=True):
        mine, theirs = _best(order), set(_best(truth))
        hits.append(sum(one in theirs for one in mine) / len(mine))
        values.append(sum(truth[one] for one in mine) / len(mine))
    return Choice(selection=mean(hits), accuracy=mean(values))


def _order(preferred: Sequence[Sequence[float]], truths: Sequence[Sequence[float]]) -> Order:
    """Likewise, with the correlation of both orders."""
    chosen = _choice(preferred, truths)
    taus = [rank_correlation(order, truth) for order, truth in zip(preferred, truths, strict=True)]
    known = [tau for tau in taus if tau is not None]
    tau = mean(known)
    return Order(chosen.selection, chosen.accuracy, rank_correlation=tau, without=len(taus) - len(known))


def _answers(items: Sequence[Judged], kind: str | None) -> AnswerAgreement:
    """Agreement on all questions, or on those of one kind."""
    counts = []
    for item in items:
        picked = [i for i, question in enumerate(item.questions) if kind in (None, question.kind)]
        told = [
            (mine[i], theirs[i], item.questions[i].answer)
            for mine, theirs in zip(item.judge, item.oracle, strict=True)
            for i in picked
        ]
        if told:
            same = sum(mine == theirs for mine, theirs, _ in told)
            judge = sum(mine == answer for mine, _, answer in told)
            right = sum(theirs == answer for _, theirs, answer in told)
            unclear = sum(theirs is None for _, theirs, _ in told)
            counts.append((same, judge, right, unclear, len(told)))
    *shares, asked = zip(*counts, strict=True)
    return AnswerAgreement(*(ratio(one, asked) for one in shares))


def agreement(items: Sequence[Judged]) -> Agreement | None:
    """Compares both on all items with questions and at least two images; None where there is no such item."""
    usable = [item for item in items if item.questions and len(item.scores) > 1]
    if not usable:
        return None
    truths = [item.truth for item in usable]
    pairs = [item.pair for item in usable if item.pair is not None]
    kinds = sorted({question.kind for item in usable for question in item.questions})
    likely = all(item.likelihoods is not None for item in usable)
    return Agreement(
        items=len(usable),
        images=sum(len(item.scores) for item in usable),
        by_score=_order([item.scores for item in usable], truths),
        by_likelihood=_order([item.ranks for item in usable], truths) if likely else None,
        by_chance=_choice([(0.0,) * len(truth) for truth in truths], truths),
        best=_choice(truths, truths),
        pairs_right=mean(float(win > lose) for win, lose in pairs),
        pairs_tied=mean(float(win == lose) for win, lose in pairs),
        pairs_wrong=mean(float(win < lose) for win, lose in pairs),
        answers=_answers(usable, None),
        by_kind={kind: _answers(usable, kind) for kind in kinds},
    )
