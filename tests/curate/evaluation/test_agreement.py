"""What a judge's scores are worth by the oracle: known judges, and what must not matter."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from curate.evaluation.agreement import Agreement, Judged, agreement, judge_item, rank_correlation
from curate.evaluation.clustered import Estimate, mean, ratio
from curate.shapes import oracle, world
from engine.records import Candidates, ImageCandidate, ImagePair, Question, Record

RELAXED = settings(max_examples=60)
CHOICES = ("one", "two", "three")
KINDS = ("count", "color")


@st.composite
def judged(draw: st.DrawFn, unclear: bool = True) -> Judged:
    """An item as some judge and the oracle see it; its pair is the judge's best and worst."""
    asked = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    questions = tuple(
        Question(question=f"{i}?", choices=CHOICES, answer=draw(st.sampled_from(CHOICES)), kind=kind)
        for i, kind in enumerate(asked)
    )
    images = draw(st.integers(2, 5))

    def answers(*values: str | None) -> tuple[tuple[str | None, ...], ...]:
        one = st.tuples(*[st.sampled_from(values)] * len(questions))
        return tuple(draw(one) for _ in range(images))

    scores = tuple(draw(st.sampled_from((0.0, 0.25, 0.5, 1.0))) for _ in range(images))
    return Judged(
        questions=questions,
        judge=answers(*CHOICES),
        oracle=answers(*CHOICES, *([None] if unclear else [])),
        scores=scores,
        likelihoods=tuple(draw(st.sampled_from((-2.0, -1.0, -0.5))) for _ in range(images)),
        pair=draw(st.none() | st.tuples(st.sampled_from((0.0, 0.5, 1.0)), st.sampled_from((0.0, 0.5, 1.0)))),
    )


ITEMS = st.lists(judged(), min_size=1, max_size=6)


def with_scores(item: Judged, scores: tuple[float, ...]) -> Judged:
    """The same item, of a judge that gives these scores; best against worst is its pair."""
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    pair = (item.truth[best], item.truth[worst]) if scores[best] > scores[worst] else None
    return Judged(questions=item.questions, judge=item.oracle, oracle=item.oracle, scores=scores, pair=pair)


def estimates(found: Record, path: str = "") -> dict[str, Estimate]:
    """All estimates of a record and of those inside it."""
    named: dict[str, Estimate] = {}
    inner = [(name, getattr(found, name)) for name in found.__struct_fields__]
    for name, one in [*inner, *getattr(found, "by_kind", {}).items()]:
        if isinstance(one, Estimate):
            named[f"{path}.{name}"] = one
        elif isinstance(one, Record):
            named |= estimates(one, f"{path}.{name}")
    return named


def assert_alike(one: Agreement, other: Agreement) -> None:
    first, second = estimates(one), estimates(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        for field in ("value", "se", "count"):
            expected = getattr(second[name], field)
            assert getattr(value, field) == pytest.approx(expected, nan_ok=True, abs=1e-12), (name, field)


@RELAXED
@given(st.lists(judged(unclear=False), min_size=1, max_size=6))
def test_a_judge_that_is_the_oracle_agrees_fully(items: list[Judged]) -> None:
    found = agreement([with_scores(item, item.truth) for item in items])
    assert found is not None
    assert found.by_score.selection.value == 1
    assert found.by_score.accuracy.value == pytest.approx(found.best.accuracy.value)
    assert found.answers.same.value == 1
    assert found.answers.unclear.value == 0
    assert all(one.same.value == 1 for one in found.by_kind.values())
    if found.pairs_right.count:
        assert (found.pairs_right.value, found.pairs_wrong.value) == (1, 0)
        assert found.by_score.rank_correlation.value == pytest.approx(1)
    assert found.by_score.without == sum(len(set(item.truth)) == 1 for item in items)


@RELAXED
@given(ITEMS)
def test_a_judge_in_reversed_order_chooses_the_worst(items: list[Judged]) -> None:
    items = [item for item in items if len(set(item.truth)) > 1]
    assume(items)
    found = agreement([with_scores(item, tuple(-one for one in item.truth)) for item in items])
    assert found is not None
    assert found.by_score.rank_correlation.value == pytest.approx(-1)
    assert found.by_score.selection.value == 0
    assert found.pairs_wrong.value == 1
    assert found.by_score.accuracy.value == pytest.approx(np.mean([min(item.truth) for item in items]))


@RELAXED
@given(ITEMS)
def test_a_judge_that_scores_all_the_same_chooses_by_chance(items: list[Judged]) -> None:
    found = agreement([with_scores(item, (0.5,) * len(item.scores)) for item in items])
    assert found is not None
    assert found.by_score.selection.value == pytest.approx(found.by_chance.selection.value)
    assert found.by_score.accuracy.value == pytest.approx(found.by_chance.accuracy.value)
    assert found.by_score.without == len(items)
    assert math.isnan(found.by_score.rank_correlation.value)


@RELAXED
@given(ITEMS, st.randoms(use_true_random=False))
def test_the_order_of_items_and_of_images_does_not_matter(items: list[Judged], random: object) -> None:
    shuffled = []
    for item in items:
        order = list(range(len(item.scores)))
        random.shuffle(order)  # type: ignore[attr-defined]
        moved = {
            name: tuple(getattr(item, name)[i] for i in order)
            for name in ("judge", "oracle", "scores", "likelihoods")
        }
        shuffled.append(Judged(questions=item.questions, pair=item.pair, **moved))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = agreement(items), agreement(shuffled)
    assert one is not None
    assert other is not None
    assert_alike(one, other)


@RELAXED
@given(ITEMS)
def test_shares_are_shares_and_kinds_add_up(items: list[Judged]) -> None:
    found = agreement(items)
    assert found is not None
    pairs = (found.pairs_right, found.pairs_tied, found.pairs_wrong)
    if found.pairs_right.count:
        assert sum(one.value for one in pairs) == pytest.approx(1)
    assert found.answers.same.value <= 1 - found.answers.unclear.value + 1e-12
    assert found.by_chance.accuracy.value <= found.best.accuracy.value + 1e-12
    total = sum(one.same.count for one in found.by_kind.values())
    assert total == found.answers.same.count
    whole = sum(one.same.value * one.same.count for one in found.by_kind.values()) / total
    assert whole == pytest.approx(found.answers.same.value)


@RELAXED
@given(ITEMS)
def test_likelihoods_decide_between_equal_scores_alone(items: list[Judged]) -> None:
    for item in items:
        assert item.likelihoods is not None
        both = list(zip(item.scores, item.likelihoods, item.ranks, strict=True))
        for one in both:
            for other in both:
                assert (one[2] > other[2]) == (one[:2] > other[:2])
    equal = [
        msgspec.structs.replace(item, scores=(0.5,) * len(item.scores), likelihoods=item.truth)
        for item in items
    ]
    found = agreement(equal)
    assert found is not None
    assert found.by_likelihood is not None
    assert found.by_likelihood.selection.value == 1
    assert found.by_likelihood.without == sum(len(set(item.truth)) == 1 for item in items)
    bare = agreement([*equal, msgspec.structs.replace(equal[0], likelihoods=None)])
    assert bare is not None
    assert bare.by_likelihood is None


SCORES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=9)


@RELAXED
@given(SCORES)
def test_rank_correlation_is_scipys_tau_b(pairs: list[tuple[int, int]]) -> None:
    scores, truth = zip(*pairs, strict=True)
    expected = kendalltau(scores, truth).statistic
    found = rank_correlation(scores, truth)
    assert found is None if math.isnan(expected) else found == pytest.approx(expected)


def test_an_image_without_an_answer_agrees_with_nothing() -> None:
    question = Question(question="how many?", choices=CHOICES, answer="two", kind="count")
    item = Judged(
        questions=(question,), judge=(("two",), ("one",)), oracle=((None,), ("one",)), scores=(1, 0)
    )
    found = agreement([item])
    assert found is not None
    assert (found.answers.same.value, found.answers.unclear.value) == (0.5, 0.5)
    assert (found.answers.judge.value, found.answers.oracle.value) == (0.5, 0)


def test_items_that_say_nothing_are_left_out() -> None:
    assert agreement([]) is None
    bare = Judged(questions=(), judge=((), ()), oracle=((), ()), scores=(0, 0))
    assert agreement([bare]) is None


def test_errors_are_clustered_by_item() -> None:
    # Ten answers about one item that always agree say no more than one answer.
    once = ratio([1, 0, 1, 0], [1, 1, 1, 1])
    tenfold = ratio([10, 0, 10, 0], [10, 10, 10, 10])
    assert once.se == pytest.approx(tenfold.se)
    assert (once.count, tenfold.count) == (4, 40)
    values = np.random.default_rng(0).normal(size=50)
    assert mean(values).se == pytest.approx(values.std(ddof=1) / np.sqrt(50))


@settings(max_examples=10)
@given(st.integers(0, 500))
def test_the_oracle_judges_the_pictures_of_an_item_and_of_its_pair(index: int) -> None:
    items = [world.item("validation", 0, index + i)[0] for i in range(3)]
    pictures = {(i,): world.image_of(item.id) for i, item in enumerate(items)}
    images = tuple(
        ImageCandidate(index=i, codes=(i,), seed=0, answers=("?",) * len(items[0].questions), score=0.0)
        for i in range(2)
    )
    older = ImageCandidate(index=0, codes=(2,), seed=0, answers=(), score=0.0)
    item = Candidates(
        id="a", round=2, caption="", category="", objects=1, questions=items[0].questions, image_codes=(0,),
        captions=(), images=images,
    )  # fmt: skip
    pair = ImagePair(win=images[0], lose=older, win_round=2, lose_round=1)
    found = judge_item(item, pair, lambda codes: np.stack([pictures[tuple(one)] for one in codes]))
    assert found.truth[0] == 1, "the item's own picture answers all its questions"
    seen = oracle.judge(pictures[(2,)], item.questions)
    right = [answer == question.answer for answer, question in zip(seen, item.questions, strict=True)]
    assert found.pair == (1, np.mean(right))
