"""How alike two texts are: cosine of their vectors, by one of several text models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.scoring.model_folders import (
    MINILM,
    MPNET,
    checked,
    default_similarity,
    folder_digest,
    sentence_folder,
)

BERT_KINDS: dict[str, Literal["cls", "mean"]] = {"bert-cls": "cls", "bert-mean": "mean"}
"""Prefix of a name -> how a plain BERT is pooled."""
_TITLES = {MINILM: "all-MiniLM-L6-v2", MPNET: "all-mpnet-base-v2"}


class Similarity(Protocol):
    """Embeds texts as unit vectors."""

    name: str
    """The model and, after @, the digest of its files; stored with what it scored."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors [len(texts), D]."""
        ...


def model_folder(name: str) -> Path:
    """The folder that a name of `load_similarity` means.

    Raises:
        DataError: there is no model there.
    """
    kind, _, folder = name.partition(":")
    if kind in BERT_KINDS:
        return checked(Path(folder), folder or name)
    return sentence_folder(name or default_similarity())


def load_similarity(name: str) -> Similarity:
    """`minilm`, `mpnet`, a folder of a sentence-transformers model, `bert-cls:DIR` or `bert-mean:DIR`; an
    empty name is `default_similarity`.

    Raises:
        DataError: there is no such model.
    """
    from curate.scoring.text_models import PlainBert, SentenceModel
    from curate.scoring.text_vectors import TextVectors

    name = name or default_similarity()
    folder = model_folder(name)
    digest = folder_digest(folder)
    kind = name.partition(":")[0]
    if kind in BERT_KINDS:
        title = f"{kind}:{folder.resolve().name}"
        return TextVectors(f"{title}@{digest}", PlainBert(folder, BERT_KINDS[kind]))
    title = _TITLES.get(name, folder.resolve().name)
    return TextVectors(f"{title}@{digest}", SentenceModel(folder))


def matcher_name(name: str) -> str:
    """Which model matches answers with choices where `name` scores captions: the same, or the default one for
    a plain BERT, whose vectors hardly tell words apart; the official scripts match by all-mpnet-base-v2."""
    return default_similarity() if name.partition(":")[0] in BERT_KINDS else name


def cosines(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of every unit vector after the first with the first, in [-1, 1].

    Row by row in float64: a matrix product would round a row by its place among the others.
    """
    wide = vectors.astype(np.float64)
    found: NDArray[np.float64] = (wide[1:] * wide[0]).sum(1).clip(-1.0, 1.0)
    return found


def caption_scores(similarity: Similarity, caption: str, candidates: Sequence[str]) -> list[float]:
    """Cosine of each candidate with the homologous caption, in [-1, 1]."""
    return cosines(similarity.embed([caption, *candidates])).tolist()
