"""The paper's pairing rules, as properties."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from curate import pairs
from engine.records import CaptionCandidate, CaptionPair, ImageCandidate, ImagePair

SCORES = st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0])


def image(score: float, index: int = 0, mark: int = 0) -> ImageCandidate:
    return ImageCandidate(index=index, codes=(mark, index), seed=index, answers=("yes",), score=score)


def caption(score: float, index: int = 0, mark: int = 0) -> CaptionCandidate:
    return CaptionCandidate(index=index, text=f"{mark}-{index}", token_ids=(mark, index), seed=0, score=score)


IMAGES = st.lists(SCORES, min_size=2, max_size=16).map(
    lambda scores: [image(score, index) for index, score in enumerate(scores)]
)
CAPTIONS = st.lists(SCORES, min_size=2, max_size=16).map(
    lambda scores: [caption(score, index) for index, score in enumerate(scores)]
)
OLD = st.tuples(SCORES, SCORES).map(
    lambda two: ImagePair(win=image(max(two), 0, 9), lose=image(min(two), 1, 9), win_round=1, lose_round=1)
)


@given(IMAGES, st.sampled_from([0.0, 0.6, 0.8]))
def test_round_one_pairs_best_with_worst_above_the_threshold(
    candidates: list[ImageCandidate], threshold: float
) -> None:
    scores = [one.score for one in candidates]
    pair, reason = pairs.choose_image_pair(candidates, 1, None, threshold)
    if max(scores) > threshold and max(scores) > min(scores):
        assert pair is not None
        assert (pair.win.score, pair.lose.score) == (max(scores), min(scores))
        assert (pair.win_round, pair.lose_round, reason) == (1, 1, "")
    else:
        assert pair is None
        assert reason in (pairs.BELOW_THRESHOLD, pairs.EQUAL)


@given(CAPTIONS)
def test_captions_have_no_threshold(candidates: list[CaptionCandidate]) -> None:
    scores = [one.score for one in candidates]
    pair, reason = pairs.choose_caption_pair(candidates, 1, None)
    assert (pair is None) == (max(scores) == min(scores))
    assert (reason == pairs.EQUAL) == (pair is None)


@given(IMAGES, OLD)
def test_later_rounds_follow_equation_10(candidates: list[ImageCandidate], old: ImagePair) -> None:
    best = max(one.score for one in candidates)
    pair, reason = pairs.choose_image_pair(candidates, 3, old, 0.0)
    expected = old.win if best > old.win.score else old.lose
    if pair is None:
        assert best <= expected.score or best <= 0.0
        assert reason in (pairs.NO_BETTER, pairs.BELOW_THRESHOLD)
    else:
        assert pair.win.score == best
        assert pair.lose == expected
        assert (pair.win_round, pair.lose_round) == (3, 1)


@given(IMAGES, OLD)
def test_a_winner_always_scores_higher_than_its_loser(
    candidates: list[ImageCandidate], old: ImagePair
) -> None:
    for before in (None, old):
        pair, _ = pairs.choose_image_pair(candidates, 2, before, 0.6)
        assert pair is None or (pair.win.score > pair.lose.score and pair.win.score > 0.6)


@given(IMAGES, st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_candidates(
    candidates: list[ImageCandidate], random: object
) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    choices = [pairs.choose_image_pair(order, 1, None, 0.6) for order in (candidates, shuffled)]
    assert choices[0] == choices[1]


def test_the_threshold_must_be_exceeded_not_met() -> None:
    pair, reason = pairs.choose_image_pair([image(0.6, 0), image(0.2, 1)], 1, None, 0.6)
    assert (pair, reason) == (None, pairs.BELOW_THRESHOLD)


def test_a_margin_must_be_exceeded() -> None:
    pair, reason = pairs.choose_caption_pair([caption(0.9, 0), caption(0.8, 1)], 1, None, min_margin=0.2)
    assert (pair, reason) == (None, pairs.BELOW_MARGIN)


def test_equal_texts_make_no_pair() -> None:
    same = caption(0.2, 0, 7)
    old = CaptionPair(win=caption(0.9, 5, 7), lose=same, win_round=1, lose_round=1)
    new = CaptionCandidate(index=0, text="7-0", token_ids=(7, 0), seed=1, score=0.5)
    assert pairs.choose_caption_pair([new, caption(0.1, 1)], 2, old) == (None, pairs.SAME)


def test_no_questions_make_no_image_pair() -> None:
    blank = [ImageCandidate(index=i, codes=(i,), seed=i, answers=(), score=0.0) for i in range(2)]
    assert pairs.choose_image_pair(blank, 1, None, 0.0) == (None, pairs.NO_QUESTIONS)
