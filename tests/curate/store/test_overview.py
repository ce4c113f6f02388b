"""A curation in numbers: every candidate is counted once, wherever its score lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.store.files import PAIRS, write_records
from curate.store.outcomes import Outcome, QuarantinedRow, Sampled
from curate.store.overview import NOT_PAIRED, histogram, read_overview
from curate.store.shards import ShardStore
from engine.records import (
    Candidates,
    CaptionCandidate,
    CaptionPair,
    ImageCandidate,
    ImagePair,
    Preference,
    Question,
)

QUESTION = Question(question="is it?", choices=("yes", "no"), answer="yes", kind="existence")


def item(name: str, captions: list[float], images: list[float], asked: bool = True) -> Candidates:
    return Candidates(
        id=name,
        round=2,
        caption=f"caption of {name}",
        category="",
        objects=0,
        questions=(QUESTION,) if asked else (),
        image_codes=(),
        captions=tuple(
            CaptionCandidate(index=i, text="", token_ids=(i,), seed=0, score=score)
            for i, score in enumerate(captions)
        ),
        images=tuple(
            ImageCandidate(index=i, codes=(i,), seed=0, answers=("yes",) * asked, score=score)
            for i, score in enumerate(images)
        ),
    )


def store(folder: Path, outcomes: list[Outcome]) -> None:
    with ShardStore(folder, 4) as shards:
        for one in outcomes:
            shards.append([one])


def test_an_overview_counts_pairs_reasons_ties_and_scores(tmp_path: Path) -> None:
    first, second, third = (
        item("a", [0.9, 0.5, 0.9], [1.0, 1.0]),
        item("b", [0.2, 0.7], [0.5, 0.0]),
        item("c", [0.8, 0.6], [0.0, 0.0], asked=False),
    )
    bad = [QuarantinedRow(number=i, where=f"row {i}", reason="no image") for i in (3, 4)]
    store(tmp_path, [*(Sampled(number=i, item=one) for i, one in enumerate((first, second, third))), *bad])
    older = second.captions[0]
    preferences = [
        Preference(
            id="a", caption="", image_codes=(),
            captions=CaptionPair(win=first.captions[0], lose=first.captions[1], win_round=2, lose_round=2),
            images=ImagePair(win=first.images[0], lose=first.images[1], win_round=2, lose_round=2),
        ),
        Preference(
            id="b", caption="", image_codes=(),
            captions=CaptionPair(win=second.captions[1], lose=older, win_round=2, lose_round=1),
            images=None, image_reason="too bad",
        ),
    ]  # fmt: skip
    write_records(tmp_path / PAIRS, preferences)
    found = read_overview(tmp_path, 2, None)
    assert found.items == 3
    assert found.quarantined == {"no image": 2}
    assert (found.captions.pairs, found.images.pairs) == (2, 1)
    assert (found.captions.ties, found.images.ties) == (0, 1)
    assert found.captions.no_pair == {NOT_PAIRED: 1}
    assert found.images.no_pair == {"too bad": 1, NOT_PAIRED: 1}
    assert (found.captions.shared_best, found.images.shared_best) == (1, 1)
    # The loser of b is of round 1, and is not marked among the candidates of round 2.
    assert sum(found.captions.histogram.won) == 2
    assert sum(found.captions.histogram.lost) == 1
    # Without questions there are no scores of images.
    assert found.images.candidates == 4
    assert found.images.mean == pytest.approx(np.mean([1.0, 1.0, 0.5, 0.0]))
    assert [row.id for row in found.listed] == ["a", "b", "c"]
    assert found.listed[1].captions.lose_score == 0.2
    assert (found.listed[2].best_caption, found.listed[2].best_image) == (0.8, None)
    assert [row.id for row in read_overview(tmp_path, 2, 1).listed] == ["a"]


def test_a_curation_that_is_not_complete_has_no_pairs_yet(tmp_path: Path) -> None:
    store(tmp_path, [Sampled(number=0, item=item("a", [0.5], [0.5]))])
    found = read_overview(tmp_path, 1, None)
    assert (found.items, found.captions.pairs) == (1, 0)
    assert found.captions.no_pair == {NOT_PAIRED: 1}


def test_nothing_sampled_is_an_overview_of_nothing(tmp_path: Path) -> None:
    store(tmp_path, [QuarantinedRow(number=0, where="row 0", reason="no image")])
    found = read_overview(tmp_path, 1, None)
    assert (found.items, found.captions.candidates, found.captions.mean) == (0, 0, None)


TENTHS = st.integers(-10, 9).map(lambda tenths: tenths / 10)
SCORES = st.lists(st.floats(-1, 1.0000002), max_size=30)


@given(SCORES, SCORES, SCORES, TENTHS)
def test_a_histogram_counts_every_score_once(
    won: list[float], lost: list[float], rest: list[float], low: float
) -> None:
    found = histogram(won, lost, rest, low)
    assert [sum(one) for one in (found.won, found.lost, found.rest)] == [len(won), len(lost), len(rest)]
    assert found.edge(len(found.totals)) == pytest.approx(1)
    merged = found.merged()
    assert sum(merged.totals) == sum(found.totals)
    assert merged.edge(len(merged.totals)) == pytest.approx(1)


@given(st.integers(0, 20), TENTHS)
def test_a_score_on_an_edge_belongs_to_the_bin_above(place: int, low: float) -> None:
    empty = histogram([], [], [], low)
    place %= len(empty.totals)
    found = histogram([round(empty.edge(place), 6)], [], [], low)
    assert found.won.index(1) == place
