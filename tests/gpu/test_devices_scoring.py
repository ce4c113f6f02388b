"""Text models on a pretended GPU: what a tokenizer makes on the host meets the weights on their device."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretended_cuda import CUDA, moved, pretended_cuda
from tiny_bert import write_bert, write_sentence_model

from curate.scoring.text_models import PlainBert, SentenceModel


@pytest.mark.parametrize("kind", ["cls", "mean", "sentence"])
def test_vectors_of_texts_are_made_on_the_models_device(tmp_path: Path, kind: str) -> None:
    if kind == "sentence":
        model = SentenceModel(write_sentence_model(tmp_path / "model"))
    else:
        model = PlainBert(write_bert(tmp_path / "model"), kind)
    assert model.vectors(model.tokens("a red circle")).device.type == "cpu"
    with pretended_cuda():
        moved(model._model)
        assert model.vectors(model.tokens("a red circle")).device == CUDA
