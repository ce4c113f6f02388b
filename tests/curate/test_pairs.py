"""The pairing rules, as properties: the paper's, ties by likelihood, and the official scripts'."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from curate import pairs
from curate.config import CurateConfig
from curate.rules import Rules, rules_of
from engine.records import CaptionCandidate, CaptionPair, ImageCandidate, ImagePair

SCORES = st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0])
LIKELIHOODS = st.sampled_from([None, -3.0, -1.0, -0.25, 0.0])
OFFICIAL = rules_of(CurateConfig(rules="official"))
NO_TIES = Rules(by_likelihood=False)
ANY = st.sampled_from(
    [Rules(), NO_TIES, Rules(threshold=0.0, image_margin=0.2, caption_margin=0.2), OFFICIAL]
)


def image(score: float, index: int = 0, mark: int = 0, likelihood: float | None = None) -> ImageCandidate:
    return ImageCandidate(
        index=index, codes=(mark, index), seed=index, answers=("yes",), score=score, likelihood=likelihood
    )


def caption(score: float, index: int = 0, mark: int = 0) -> CaptionCandidate:
    return CaptionCandidate(index=index, text=f"{mark}-{index}", token_ids=(mark, index), seed=0, score=score)


def rank(one: ImageCandidate) -> tuple[float, float]:
    assert one.likelihood is not None
    return one.score, one.likelihood


IMAGES = st.lists(SCORES, min_size=2, max_size=16).map(
    lambda scores: [image(score, index) for index, score in enumerate(scores)]
)
LIKELY = st.lists(
    st.tuples(SCORES, LIKELIHOODS.filter(lambda one: one is not None)), min_size=2, max_size=16
).map(lambda both: [image(score, i, likelihood=likelihood) for i, (score, likelihood) in enumerate(both)])
MIXED = st.lists(st.tuples(SCORES, LIKELIHOODS), min_size=2, max_size=16).map(
    lambda both: [image(score, i, likelihood=likelihood) for i, (score, likelihood) in enumerate(both)]
)
CAPTIONS = st.lists(SCORES, min_size=2, max_size=16).map(
    lambda scores: [caption(score, index) for index, score in enumerate(scores)]
)
OLD = st.tuples(SCORES, SCORES).map(
    lambda two: ImagePair(win=image(max(two), 0, 9), lose=image(min(two), 1, 9), win_round=1, lose_round=1)
)
LIKELY_OLD = st.tuples(SCORES, SCORES, st.sampled_from([-3.0, -1.0]), st.sampled_from([-1.0, -0.25])).map(
    lambda four: ImagePair(
        win=image(max(four[:2]), 0, 9, four[3]),
        lose=image(min(four[:2]), 1, 9, four[2]),
        win_round=1,
        lose_round=1,
        tie=four[0] == four[1],
    )
)
OLD_CAPTIONS = st.tuples(SCORES, SCORES).map(
    lambda two: CaptionPair(
        win=caption(max(two), 0, 9), lose=caption(min(two), 1, 9), win_round=1, lose_round=1
    )
)


@given(IMAGES, st.sampled_from([0.0, 0.6, 0.8]))
def test_round_one_pairs_best_with_worst_above_the_threshold(
    candidates: list[ImageCandidate], threshold: float
) -> None:
    scores = [one.score for one in candidates]
    pair, reason = pairs.choose_image_pair(candidates, 1, None, Rules(threshold=threshold))
    if max(scores) > threshold and max(scores) > min(scores):
        assert pair is not None
        assert (pair.win.score, pair.lose.score) == (max(scores), min(scores))
        assert (pair.win_round, pair.lose_round, reason, pair.tie) == (1, 1, "", False)
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
def test_later_rounds_of_images_follow_equation_10(candidates: list[ImageCandidate], old: ImagePair) -> None:
    best = max(one.score for one in candidates)
    pair, reason = pairs.choose_image_pair(candidates, 3, old, Rules(threshold=0.0))
    expected = old.win if best > old.win.score else old.lose
    if pair is None:
        assert best <= expected.score or best <= 0.0
        assert reason in (pairs.NO_BETTER, pairs.BELOW_THRESHOLD)
    else:
        assert pair.win.score == best
        assert pair.lose == expected
        assert (pair.win_round, pair.lose_round) == (3, 1)


@given(CAPTIONS, OLD_CAPTIONS)
def test_later_rounds_of_captions_follow_equation_10(
    candidates: list[CaptionCandidate], old: CaptionPair
) -> None:
    best = max(one.score for one in candidates)
    pair, reason = pairs.choose_caption_pair(candidates, 3, old)
    expected = old.win if best > old.win.score else old.lose
    if pair is None:
        assert (best <= expected.score, reason) == (True, pairs.NO_BETTER)
    else:
        assert (pair.win.score, pair.lose, pair.lose_round) == (best, expected, 1)


@given(LIKELY, LIKELY_OLD)
def test_likelihood_decides_equation_10_where_scores_are_equal(
    candidates: list[ImageCandidate], old: ImagePair
) -> None:
    best = max(candidates, key=lambda one: (rank(one), -one.index))
    expected = old.win if rank(best) > rank(old.win) else old.lose
    pair, reason = pairs.choose_image_pair(candidates, 2, old, Rules(threshold=0.0))
    if best.score > 0.0 and rank(best) > rank(expected):
        assert pair == ImagePair(
            win=best, lose=expected, win_round=2, lose_round=1, tie=best.score == expected.score
        )
    else:
        assert (pair, reason != "") == (None, True)


@given(st.one_of(LIKELY, MIXED, IMAGES), st.one_of(st.none(), OLD, LIKELY_OLD), ANY)
def test_a_winner_always_beats_its_loser_unless_official_rules_say_otherwise(
    candidates: list[ImageCandidate], old: ImagePair | None, rules: Rules
) -> None:
    pair, _ = pairs.choose_image_pair(candidates, 2, old, rules)
    if pair is None:
        return
    assert pair.tie == (pair.win.score == pair.lose.score)
    if rules == OFFICIAL and old:
        return
    assert pair.win.score > rules.threshold
    if pair.tie:
        assert rules.by_likelihood
        assert rules.image_margin == 0
        assert rank(pair.win) > rank(pair.lose)
    else:
        assert pair.win.score - pair.lose.score > rules.image_margin


@given(st.one_of(LIKELY, MIXED, IMAGES), st.one_of(st.none(), OLD, LIKELY_OLD), ANY, st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_candidates(
    candidates: list[ImageCandidate], old: ImagePair | None, rules: Rules, random: object
) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    choices = [pairs.choose_image_pair(order, 2, old, rules) for order in (candidates, shuffled)]
    assert choices[0] == choices[1]


@given(LIKELY)
def test_ties_are_broken_by_likelihood_at_both_ends_and_then_by_who_was_sampled_first(
    candidates: list[ImageCandidate],
) -> None:
    best, worst = pairs.best_and_worst(candidates)
    assert rank(best) == max(map(rank, candidates))
    assert rank(worst) == min(map(rank, candidates))
    for chosen in (best, worst):
        assert chosen.index == min(one.index for one in candidates if rank(one) == rank(chosen))
    best, worst = pairs.best_and_worst(candidates, NO_TIES)
    for chosen in (best, worst):
        assert chosen.index == min(one.index for one in candidates if one.score == chosen.score)


@given(LIKELY)
def test_images_of_one_score_make_a_marked_pair_by_likelihood_alone(candidates: list[ImageCandidate]) -> None:
    equal = [image(0.8, one.index, likelihood=one.likelihood) for one in candidates]
    pair, reason = pairs.choose_image_pair(equal, 1, None)
    if len({one.likelihood for one in equal}) == 1:
        assert (pair, reason) == (None, pairs.EQUAL)
    else:
        assert pair is not None
        assert pair.tie
        assert rank(pair.win) > rank(pair.lose)
    assert pairs.choose_image_pair(equal, 1, None, NO_TIES) == (None, pairs.EQUAL)
    assert pairs.choose_image_pair(equal, 1, None, Rules(image_margin=0.1)) == (None, pairs.EQUAL)
    unread = [*equal[1:], image(0.8, equal[0].index)]
    assert pairs.choose_image_pair(unread, 1, None) == (None, pairs.EQUAL)


def test_an_old_pair_without_likelihoods_is_compared_by_score() -> None:
    old = ImagePair(win=image(0.8, 0, 9), lose=image(0.4, 1, 9), win_round=1, lose_round=1)
    new = [image(0.8, 0, likelihood=-0.5), image(0.8, 1, likelihood=-0.25)]
    pair, _ = pairs.choose_image_pair(new, 2, old)
    assert pair == ImagePair(win=new[1], lose=old.lose, win_round=2, lose_round=1)


def test_the_threshold_must_be_exceeded_not_met() -> None:
    for likelihood in (None, -0.1):
        images = [image(0.6, 0, likelihood=likelihood), image(0.2, 1, likelihood=likelihood)]
        assert pairs.choose_image_pair(images, 1, None) == (None, pairs.BELOW_THRESHOLD)


def test_a_margin_must_be_exceeded_by_its_own_modality() -> None:
    captions, images = [caption(0.9, 0), caption(0.8, 1)], [image(0.9, 0), image(0.8, 1)]
    for modality in ("caption", "image"):
        rules = rules_of(CurateConfig(**{f"{modality}_margin": 0.2}))
        reasons = (
            pairs.choose_caption_pair(captions, 1, None, rules)[1],
            pairs.choose_image_pair(images, 1, None, rules)[1],
        )
        assert reasons == (
            pairs.BELOW_MARGIN if modality == "caption" else "",
            pairs.BELOW_MARGIN if modality == "image" else "",
        )


def test_equal_texts_make_no_pair() -> None:
    same = caption(0.2, 0, 7)
    old = CaptionPair(win=caption(0.9, 5, 7), lose=same, win_round=1, lose_round=1)
    new = CaptionCandidate(index=0, text="7-0", token_ids=(7, 0), seed=1, score=0.5)
    assert pairs.choose_caption_pair([new, caption(0.1, 1)], 2, old) == (None, pairs.SAME)


def test_no_questions_make_no_image_pair() -> None:
    blank = [ImageCandidate(index=i, codes=(i,), seed=i, answers=(), score=0.0) for i in range(2)]
    for rules in (Rules(threshold=0.0), OFFICIAL):
        assert pairs.choose_image_pair(blank, 1, None, rules) == (None, pairs.NO_QUESTIONS)


@given(CAPTIONS)
def test_official_round_one_pairs_captions_whatever_they_score(candidates: list[CaptionCandidate]) -> None:
    scores = [one.score for one in candidates]
    pair, _ = pairs.choose_caption_pair(candidates, 1, None, OFFICIAL)
    assert pair is not None
    assert (pair.win.index, pair.lose.index) == (scores.index(max(scores)), scores.index(min(scores)))


@given(st.one_of(LIKELY, IMAGES))
def test_official_round_one_pairs_images_by_score_and_first_index(candidates: list[ImageCandidate]) -> None:
    scores = [one.score for one in candidates]
    pair, _ = pairs.choose_image_pair(candidates, 1, None, OFFICIAL)
    if max(scores) != min(scores) and max(scores) > 0.6:
        assert pair is not None
        assert (pair.win.index, pair.lose.index) == (scores.index(max(scores)), scores.index(min(scores)))
    else:
        assert pair is None


@given(st.one_of(LIKELY, IMAGES), st.one_of(OLD, LIKELY_OLD))
def test_official_later_rounds_take_both_branches_of_equation_10_unchecked(
    candidates: list[ImageCandidate], old: ImagePair
) -> None:
    scores = [one.score for one in candidates]
    pair, _ = pairs.choose_image_pair(candidates, 2, old, OFFICIAL)
    assert pair is not None
    assert pair.win.index == scores.index(max(scores))
    assert pair.lose == (old.win if max(scores) > old.win.score else old.lose)


def test_official_items_have_both_pairs_or_none_and_say_why() -> None:
    captions = pairs.choose_caption_pair([caption(0.9, 0), caption(0.1, 1)], 1, None, OFFICIAL)
    low = pairs.choose_image_pair([image(0.5, 0), image(0.1, 1)], 1, None, OFFICIAL)
    high = pairs.choose_image_pair([image(0.9, 0), image(0.1, 1)], 1, None, OFFICIAL)
    assert pairs.choose_pairs(captions, low, OFFICIAL) == (
        (None, pairs.OTHER_SIDE),
        (None, pairs.BELOW_THRESHOLD),
    )
    assert pairs.choose_pairs(captions, low, Rules()) == (captions, low)
    assert pairs.choose_pairs(captions, high, OFFICIAL) == (captions, high)
