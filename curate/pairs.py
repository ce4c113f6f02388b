"""Which candidates become winner and loser: pure functions of candidates, the latest pair, and the rules.

Round 1: best and worst of the n candidates. Later rounds (Eq. 10): if the new best beats the old winner
the pair is (new best, old winner), otherwise (new best, old loser). Candidates are compared by their score,
images of equal score by their likelihood, and what is equal in both by who was sampled first. A pair whose
winner does not beat its loser is dropped with its reason; Eq. 10's second branch can produce such pairs.
`curate.rules` says where the official scripts do otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from curate.rules import Rules
from engine.records import (
    CaptionCandidate,
    CaptionPair,
    ImageCandidate,
    ImagePair,
)

Candidate = TypeVar("Candidate", CaptionCandidate, ImageCandidate)

EQUAL = "best and worst score the same"
BELOW_THRESHOLD = "best image does not exceed the threshold"
BELOW_MARGIN = "score difference does not exceed the minimum margin"
NO_BETTER = "new best is no better than the old loser"
NO_CANDIDATES = "no candidates"
NO_QUESTIONS = "no questions to score images with"
SAME = "winner and loser are the same"
OTHER_SIDE = "the other side has no pair"

PAPER = Rules()


def _likelihood(one: CaptionCandidate | ImageCandidate) -> float | None:
    return one.likelihood if isinstance(one, ImageCandidate) else None


def _likely(some: Iterable[CaptionCandidate | ImageCandidate], rules: Rules) -> bool:
    """Whether likelihood can decide between these: all of them have one."""
    return rules.by_likelihood and all(_likelihood(one) is not None for one in some)


def _rank(one: CaptionCandidate | ImageCandidate, likely: bool) -> tuple[float, float]:
    return one.score, (_likelihood(one) or 0.0) if likely else 0.0


def _beats(one: Candidate, other: Candidate, rules: Rules) -> bool:
    likely = _likely((one, other), rules)
    return _rank(one, likely) > _rank(other, likely)


def best_and_worst(candidates: Sequence[Candidate], rules: Rules = PAPER) -> tuple[Candidate, Candidate]:
    """The highest and the lowest in (score, likelihood); among equals the first sampled."""
    likely = _likely(candidates, rules)
    best = max(candidates, key=lambda one: (_rank(one, likely), -one.index))
    worst = min(candidates, key=lambda one: (_rank(one, likely), one.index))
    return best, worst


def _choose(
    candidates: Sequence[Candidate], old: tuple[Candidate, Candidate] | None, rules: Rules
) -> tuple[Candidate, Candidate]:
    """Winner and loser before anything is checked."""
    best, worst = best_and_worst(candidates, rules)
    if old is None:
        return best, worst
    old_win, old_lose = old
    return best, old_win if _beats(best, old_win, rules) else old_lose


def _against(win: Candidate, lose: Candidate, margin: float, reason: str, rules: Rules) -> str:
    """Why (win, lose) is no pair, `reason` where the winner is no better; empty where it is one.

    A tie has no margin, so that a minimum margin leaves no ties.
    """
    if not _beats(win, lose, rules) or (win.score == lose.score and margin > 0):
        return reason
    if win.score > lose.score and win.score - lose.score <= margin:
        return BELOW_MARGIN
    return ""


def choose_caption_pair(
    candidates: Sequence[CaptionCandidate],
    round_number: int,
    old: CaptionPair | None,
    rules: Rules = PAPER,
) -> tuple[CaptionPair | None, str]:
    """(pair, "") or (None, reason). `old` is the item's latest pair, None where it never had one."""
    if not candidates:
        return None, NO_CANDIDATES
    win, lose = _choose(candidates, (old.win, old.lose) if old else None, rules)
    if not (rules.later_worse if old else rules.equal_captions):
        reason = _against(win, lose, rules.caption_margin, NO_BETTER if old else EQUAL, rules)
        if reason or win.token_ids == lose.token_ids:
            return None, reason or SAME
    lose_round = _round_of(lose, old) if old else round_number
    return CaptionPair(win=win, lose=lose, win_round=round_number, lose_round=lose_round), ""


def choose_image_pair(
    candidates: Sequence[ImageCandidate],
    round_number: int,
    old: ImagePair | None,
    rules: Rules = PAPER,
) -> tuple[ImagePair | None, str]:
    """(pair, "") or (None, reason). The winner must exceed the threshold, for the paper in every round.

    An item without questions has no candidates.
    """
    if not candidates or not candidates[0].answers:
        return None, NO_QUESTIONS
    win, lose = _choose(candidates, (old.win, old.lose) if old else None, rules)
    if win.score <= rules.threshold and not (old and rules.later_unfiltered):
        return None, BELOW_THRESHOLD
    if not (old and rules.later_worse):
        reason = _against(win, lose, rules.image_margin, NO_BETTER if old else EQUAL, rules)
        if reason or win.codes == lose.codes:
            return None, reason or SAME
    lose_round = _round_of(lose, old) if old else round_number
    tie = win.score == lose.score
    return ImagePair(win=win, lose=lose, win_round=round_number, lose_round=lose_round, tie=tie), ""


def choose_pairs(
    captions: tuple[CaptionPair | None, str], images: tuple[ImagePair | None, str], rules: Rules
) -> tuple[tuple[CaptionPair | None, str], tuple[ImagePair | None, str]]:
    """Both sides of an item, each with its reason; where rules want whole items, both or none."""
    if not rules.whole_items or (captions[0] and images[0]):
        return captions, images
    return (None, captions[1] or OTHER_SIDE), (None, images[1] or OTHER_SIDE)


def _round_of(candidate: CaptionCandidate | ImageCandidate, old: CaptionPair | ImagePair) -> int:
    """The round in which one side of an old pair was sampled."""
    return old.win_round if candidate is old.win else old.lose_round
