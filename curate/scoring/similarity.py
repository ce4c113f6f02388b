"""How alike two texts are: cosine of their vectors, by one of several text models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
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
from engine.devices import compute_device, enough_memory
from engine.errors import DataError, HermesError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Pooling = Literal["cls", "mean"]

BERT_KINDS: dict[str, Pooling] = {"bert-cls": "cls", "bert-mean": "mean"}
"""Prefix of a name -> how a plain BERT is pooled."""
BERT_TOKENS = 512
"""The official script truncates here."""
CACHED_VECTORS = 8192
"""About 30 MB for vectors of 1,024 numbers."""
_TITLES = {MINILM: "all-MiniLM-L6-v2", MPNET: "all-mpnet-base-v2"}


class Similarity(Protocol):
    """Embeds texts as unit vectors."""

    name: str
    """The model and, after @, the digest of its files; stored with what it scored."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors [len(texts), D]."""
        ...


class TextEncoder:
    """A `Similarity` on a sentence-transformers model, which computes where the engine does, in float32."""

    def __init__(self, name: str, model: SentenceTransformer) -> None:
        self.name = name
        self._model = model
        self._vector: Callable[[str], NDArray[np.float32]] = lru_cache(CACHED_VECTORS)(self._encode)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors [len(texts), D].

        Raises:
            EngineError: the device's memory ran out.
        """
        return np.stack([self._vector(text) for text in texts])

    def _encode(self, text: str) -> NDArray[np.float32]:
        # Alone: in a batch, the others' lengths and number would decide how a vector is rounded, and a score
        # must be the same after an interruption.
        with enough_memory("embedding texts"):
            return self._model.encode(text, normalize_embeddings=True, show_progress_bar=False)


def model_folder(name: str) -> Path:
    """The folder that a name of `load_similarity` means.

    Raises:
        DataError: there is no model there.
    """
    kind, _, folder = name.partition(":")
    if kind in BERT_KINDS:
        return checked(Path(folder), folder or name)
    return sentence_folder(name or default_similarity())


def stored_name(name: str) -> str:
    """What is stored of a name of `load_similarity`: the model and the digest of its files. Loads nothing.

    Raises:
        DataError: there is no such model.
    """
    name = name or default_similarity()
    folder, kind = model_folder(name), name.partition(":")[0]
    title = (
        f"{kind}:{folder.resolve().name}" if kind in BERT_KINDS else _TITLES.get(name, folder.resolve().name)
    )
    return f"{title}@{folder_digest(folder)}"


def load_similarity(name: str) -> TextEncoder:
    """`minilm`, `mpnet`, a folder of a sentence-transformers model, `bert-cls:DIR` or `bert-mean:DIR`; an
    empty name is `default_similarity`. Reads safetensors alone, and runs no code of the folder's.

    Raises:
        DataError: there is no such model.
    """
    name = name or default_similarity()
    folder, kind = model_folder(name), name.partition(":")[0]
    plain = BERT_KINDS.get(kind)
    with _loading(folder):
        model = _plain_bert(folder, plain) if plain else _sentence_model(folder)
    return TextEncoder(stored_name(name), model)


def _sentence_model(folder: Path, modules: list[Any] | None = None) -> SentenceTransformer:
    """A model pooled as its folder says, or made of the modules given."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        None if modules else str(folder),
        modules=modules,
        device=str(compute_device()),
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )


class _BertConfig(msgspec.Struct):
    """What is read of a BERT's config.json; other fields are ignored."""

    model_type: str = ""
    hidden_size: int = 768
    max_position_embeddings: int = BERT_TOKENS


def _plain_bert(folder: Path, pooling: Pooling) -> SentenceTransformer:
    """A BERT's last layer at [CLS], or its mean over all tokens, [CLS] and [SEP] included.

    Source of `cls`: the official `get_dpo_data.py`, which takes bert-large-uncased in evaluation mode and
    float32, one text at a time with its special tokens, truncated to 512, and no gradient.

    Raises:
        DataError: the folder holds no BERT, or not all its weights.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule
    from sentence_transformers.sentence_transformer.modules import Transformer
    from transformers import BertModel

    config = msgspec.json.decode((folder / "config.json").read_bytes(), type=_BertConfig)
    if config.model_type != "bert":
        raise DataError(f"{folder}: config.json has model_type {config.model_type!r}, not 'bert'")
    local: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "add_pooling_layer": False}
    # transformers would make up the weights that are missing, and say so only here.
    loaded: Any = BertModel.from_pretrained(folder, output_loading_info=True, **local)
    if missing := sorted(loaded[1]["missing_keys"]):
        raise DataError(f"{folder}: the weights lack {len(missing)} tensors, the first {missing[0]}")
    words = Transformer(
        str(folder),
        max_seq_length=min(BERT_TOKENS, config.max_position_embeddings),
        model_kwargs={**local, "dtype": "float32"},
        processor_kwargs={"local_files_only": True},
        config_kwargs={"local_files_only": True},
    )
    return _sentence_model(folder, [words, PoolingModule(config.hidden_size, pooling_mode=pooling)])


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    except HermesError:
        raise
    except Exception as error:  # the libraries raise whatever a broken file leads to
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder}: cannot be loaded as a text model: {first}") from error


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
    scores: list[float] = cosines(similarity.embed([caption, *candidates])).tolist()
    return scores
