"""A text's vector is its own: batches have one shape for each length, whatever else is embedded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curate.scoring.text_vectors import TextVectors, Tokens
from engine.errors import EngineError

TEXTS = st.lists(st.text("abc", max_size=20), min_size=1, max_size=60)


class ShapeModel:
    """Letters as tokens, at most 13; a vector shows the text and the shape of its batch, as rounding does."""

    pad_id = 0
    longest = 13

    def __init__(self) -> None:
        self.batches = 0

    def tokens(self, text: str) -> Tokens:
        ids = torch.tensor([[1, *(ord(letter) for letter in text)][: self.longest]])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def vectors(self, batch: Tokens) -> torch.Tensor:
        self.batches += 1
        ids, seen = batch["input_ids"], batch["attention_mask"]
        assert ids.shape == seen.shape
        assert ids.shape[1] <= self.longest
        assert not (ids * (1 - seen)).any()
        places = torch.arange(1, ids.shape[1] + 1)
        rows, width = (torch.full((len(ids),), float(size)) for size in ids.shape)
        return torch.stack([rows, width, (ids * places).sum(1), seen.sum(1)], 1).float()


@given(TEXTS, TEXTS, st.randoms())
def test_neither_order_nor_company_nor_what_was_embedded_before_changes_a_vector(
    texts: list[str], before: list[str], random: object
) -> None:
    alone = np.concatenate([TextVectors("alone", ShapeModel()).embed([text]) for text in texts])
    together = TextVectors("together", ShapeModel())
    together.embed(before)
    assert np.array_equal(together.embed(texts), alone)
    order = list(range(len(texts)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert np.array_equal(TextVectors("", ShapeModel()).embed([texts[i] for i in order]), alone[order])


def test_a_text_is_computed_once_and_vectors_have_length_one() -> None:
    model = ShapeModel()
    vectors = TextVectors("counted", model)
    found = vectors.embed(["ab", "c", "ab"])
    assert model.batches == 1
    vectors.embed(["c", "ab"])
    assert model.batches == 1
    assert np.array_equal(found[0], found[2])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_memory_that_runs_out_is_one_line() -> None:
    class Crowded(ShapeModel):
        def vectors(self, batch: Tokens) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(EngineError, match=r"embedding texts: the device's memory ran out \(CUDA out of"):
        TextVectors("crowded", Crowded()).embed(["a"])
