"""Which candidates become winner and loser: the paper's rules, as pure functions.

Round 1: best and worst of the n candidates. Later rounds (Eq. 10): if the new best beats the old winner
the pair is (new best, old winner), otherwise (new best, old loser). A pair whose winner does not score
higher than its loser is dropped with its reason; Eq. 10's second branch can produce such pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

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


def best_and_worst(candidates: Sequence[Candidate]) -> tuple[Candidate, Candidate]:
    """The highest and the lowest score; among equals the first sampled."""
    best = max(candidates, key=lambda one: (one.score, -one.index))
    worst = min(candidates, key=lambda one: (one.score, one.index))
    return best, worst


def _judged(win: Candidate, lose: Candidate, min_margin: float, reason: str) -> str:
    """Why (win, lose) is no pair; empty where it is one."""
    if win.score <= lose.score:
        return reason
    if win.score - lose.score <= min_margin:
        return BELOW_MARGIN
    return ""


def _choose(
    candidates: Sequence[Candidate], old: tuple[Candidate, Candidate] | None, min_margin: float
) -> tuple[Candidate, Candidate, bool, str]:
    """(winner, loser, whether the loser is from the old pair, reason against)."""
    best, worst = best_and_worst(candidates)
    if old is None:
        return best, worst, False, _judged(best, worst, min_margin, EQUAL)
    old_win, old_lose = old
    lose = old_win if best.score > old_win.score else old_lose
    return best, lose, True, _judged(best, lose, min_margin, NO_BETTER)


def choose_caption_pair(
    candidates: Sequence[CaptionCandidate],
    round_number: int,
    old: CaptionPair | None,
    min_margin: float = 0.0,
) -> tuple[CaptionPair | None, str]:
    """(pair, "") or (None, reason). `old` is the item's latest pair, None where it never had one."""
    if not candidates:
        return None, NO_CANDIDATES
    before = (old.win, old.lose) if old else None
    win, lose, from_old, reason = _choose(candidates, before, min_margin)
    if reason:
        return None, reason
    if win.token_ids == lose.token_ids:
        return None, SAME
    return (
        CaptionPair(
            win=win,
            lose=lose,
            win_round=round_number,
            lose_round=_round_of(lose, old) if from_old and old else round_number,
        ),
        "",
    )


def choose_image_pair(
    candidates: Sequence[ImageCandidate],
    round_number: int,
    old: ImagePair | None,
    threshold: float,
    min_margin: float = 0.0,
) -> tuple[ImagePair | None, str]:
    """(pair, "") or (None, reason); the winner must exceed the threshold, in every round."""
    if not candidates:
        return None, NO_CANDIDATES
    if not candidates[0].answers:
        return None, NO_QUESTIONS
    before = (old.win, old.lose) if old else None
    win, lose, from_old, reason = _choose(candidates, before, min_margin)
    if win.score <= threshold:
        return None, BELOW_THRESHOLD
    if reason:
        return None, reason
    if win.codes == lose.codes:
        return None, SAME
    return (
        ImagePair(
            win=win,
            lose=lose,
            win_round=round_number,
            lose_round=_round_of(lose, old) if from_old and old else round_number,
        ),
        "",
    )


def _round_of(candidate: CaptionCandidate | ImageCandidate, old: CaptionPair | ImagePair) -> int:
    """The round in which one side of an old pair was sampled."""
    return old.win_round if candidate is old.win else old.lose_round
