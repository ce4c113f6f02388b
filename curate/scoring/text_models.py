"""Text encoders from local folders: sentence-transformers models, and BERT as the official script uses it.

They compute where the engine does, in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from curate.scoring.text_vectors import Tokens
from engine.devices import compute_device
from engine.errors import DataError, HermesError

BERT_TOKENS = 512
"""The official script truncates here."""

Pooling = Literal["cls", "mean"]


class SentenceModel:
    """A sentence-transformers model, pooled as its folder says."""

    def __init__(self, folder: Path) -> None:
        """Reads safetensors alone, and runs no code of the folder's.

        Raises:
            DataError: the folder holds no such model.
        """
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        with _loading(folder):
            self._model = SentenceTransformer(
                str(folder),
                device=str(compute_device()),
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
        self.pad_id = self._model.tokenizer.pad_token_id or 0
        self.longest = self._model.max_seq_length or 1 << 30

    def tokens(self, text: str) -> Tokens:
        """One text as the model's inputs."""
        return dict(self._model.preprocess([text]))

    def vectors(self, batch: Tokens) -> Tensor:
        """Sentence embeddings [R, D]."""
        found: Tensor = self._model(_on(self._model.device, batch))["sentence_embedding"]
        return found


class PlainBert:
    """A BERT's last layer at [CLS], or its mean over all tokens, [CLS] and [SEP] included.

    Source of `cls`: the official `get_dpo_data.py`, which takes bert-large-uncased in evaluation mode and
    float32, one text at a time with its special tokens, truncated to 512, and no gradient.
    """

    def __init__(self, folder: Path, pooling: Pooling) -> None:
        """Raises DataError where the folder holds no BERT, or not all its weights in safetensors."""
        if _model_type(folder) != "bert":
            raise DataError(f"{folder}: config.json has model_type {_model_type(folder)!r}, not 'bert'")
        from transformers import BertModel, BertTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        with _loading(folder):
            self._tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
            found: Any = BertModel.from_pretrained(
                folder,
                add_pooling_layer=False,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
            if missing := sorted(found[1]["missing_keys"]):
                raise DataError(f"{folder}: the weights lack {len(missing)} tensors, the first {missing[0]}")
        self._model = found[0].eval().to(compute_device())
        self._pooling = pooling
        self.pad_id = self._tokenizer.pad_token_id
        self.longest = min(BERT_TOKENS, self._model.config.max_position_embeddings)

    def tokens(self, text: str) -> Tokens:
        """`[CLS] text [SEP]`, truncated."""
        return dict(self._tokenizer(text, return_tensors="pt", truncation=True, max_length=self.longest))

    def vectors(self, batch: Tokens) -> Tensor:
        """[R, D] in float32."""
        batch = _on(self._model.device, batch)
        hidden: Tensor = self._model(**batch).last_hidden_state
        if self._pooling == "cls":
            return hidden[:, 0]
        seen = batch["attention_mask"][:, :, None].to(hidden.dtype)
        return (hidden * seen).sum(1) / seen.sum(1)


def _on(device: torch.device, batch: Tokens) -> dict[str, Tensor]:
    return {name: one.to(device) if isinstance(one, Tensor) else one for name, one in batch.items()}


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    try:
        yield
    except HermesError:
        raise
    except Exception as error:  # the libraries raise whatever a broken file leads to
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder}: cannot be loaded as a text model: {first}") from error


def _model_type(folder: Path) -> str:
    try:
        config: Any = msgspec.json.decode((folder / "config.json").read_bytes())
        return str(config["model_type"])
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: config.json names no model_type") from error
