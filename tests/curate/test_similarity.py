"""The packaged sentence model: a text's vector is its own, whatever it is embedded with."""

from __future__ import annotations

import numpy as np
import pytest

from curate.similarity import SentenceSimilarity, caption_scores, load_similarity

TEXTS = ["a red circle", "three blue squares and a cross", "there is a triangle left of a green circle", "no"]


@pytest.fixture(scope="module")
def alone() -> np.ndarray:
    return np.concatenate([load_similarity("").embed([text]) for text in TEXTS])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1), (2, 2, 0), (1, 0, 3)])
def test_a_vector_does_not_depend_on_the_batch(alone: np.ndarray, order: tuple[int, ...]) -> None:
    similarity: SentenceSimilarity = load_similarity("")
    similarity.embed(TEXTS[:1])
    found = similarity.embed([TEXTS[i] for i in order])
    assert np.array_equal(found, alone[list(order)])


def test_the_same_sentence_scores_one_and_a_nearer_one_scores_higher() -> None:
    same, near, far = caption_scores(
        load_similarity(""), "a red circle", ["a red circle", "a red square", "three yellow crosses"]
    )
    assert same == pytest.approx(1.0, abs=1e-6)
    assert 1.0 > near > far
