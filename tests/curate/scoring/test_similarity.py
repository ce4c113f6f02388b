"""The packaged sentence model: a vector and a score are their own, whatever stands beside them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from curate.scoring.similarity import caption_scores, cosines, load_similarity

TEXTS = ["a red circle", "three blue squares and a cross", "there is a triangle left of a green circle", "no"]


@pytest.fixture(scope="module")
def alone() -> np.ndarray:
    return np.concatenate([load_similarity("minilm").embed([text]) for text in TEXTS])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1), (2, 2, 0), (1, 0, 3)])
def test_a_vector_does_not_depend_on_the_batch(alone: np.ndarray, order: tuple[int, ...]) -> None:
    similarity = load_similarity("minilm")
    similarity.embed(TEXTS[:1])
    found = similarity.embed([TEXTS[i] for i in order])
    assert np.array_equal(found, alone[list(order)])


def test_the_same_sentence_scores_one_and_a_nearer_one_scores_higher() -> None:
    same, near, far = caption_scores(
        load_similarity("minilm"), "a red circle", ["a red circle", "a red square", "three yellow crosses"]
    )
    assert same == pytest.approx(1.0, abs=1e-6)
    assert 1.0 > near > far


@given(
    st.integers(1, 80).flatmap(
        lambda width: arrays(
            np.float32, st.tuples(st.integers(2, 20), st.just(width)), elements=st.floats(-1, 1, width=32)
        )
    ),
    st.randoms(),
)
def test_a_cosine_does_not_depend_on_the_other_candidates(vectors: np.ndarray, random: object) -> None:
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-3)
    together = cosines(vectors)
    assert [cosines(vectors[[0, i]])[0] for i in range(1, len(vectors))] == together.tolist()
    order = list(range(1, len(vectors)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert cosines(vectors[[0, *order]]).tolist() == [together[i - 1] for i in order]
    assert np.abs(together).max() <= 1
