"""Unit vectors of texts, remembered, and the same whatever a text is embedded with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.devices import enough_memory

ROWS, WIDTH = 16, 8
"""Texts of a batch, and what its width in tokens is a multiple of."""

Tokens = Mapping[str, Tensor]
"""Model inputs by name, [R, T]."""
_PADDED = ("input_ids", "attention_mask", "token_type_ids")


class TextModel(Protocol):
    """A text encoder with its tokenizer. R rows, T tokens, D hidden."""

    pad_id: int
    longest: int
    """Tokens that a row may have."""

    def tokens(self, text: str) -> Tokens:
        """One text, truncated to `longest`, without padding: [1, T]."""
        ...

    def vectors(self, batch: Tokens) -> Tensor:
        """[R, D], of any length, where the model lies."""
        ...


class TextVectors:
    """A `Similarity` over a text model.

    A product rounds differently in batches of different shapes, and a score must not depend on what was
    embedded before an interruption. So all batches have the same number of rows, and a text's padded
    width depends on its own length alone.
    """

    def __init__(self, name: str, model: TextModel) -> None:
        self.name = name
        self._model = model
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors [len(texts), D]; each different text is computed once."""
        new = sorted({text for text in texts if text not in self._known})
        if new:
            self._known.update(zip(new, self._computed(new), strict=True))
        return np.stack([self._known[text] for text in texts])

    def _computed(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        tokens = [self._model.tokens(text) for text in texts]
        widths = [min(-(-_length(one) // WIDTH) * WIDTH, self._model.longest) for one in tokens]
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
    def _vectors(self, tokens: Sequence[Tokens], width: int) -> NDArray[np.float32]:
        """Unit vectors of one batch, padded to `width`."""
        fill = {"input_ids": self._model.pad_id}
        batch = dict(tokens[0])
        for name in _PADDED:
            if name in batch:
                rows = [
                    F.pad(one[name], (0, width - one[name].shape[1]), value=fill.get(name, 0))
                    for one in tokens
                ]
                batch[name] = torch.cat(rows)
        with enough_memory("embedding texts"):
            return F.normalize(self._model.vectors(batch).float(), dim=-1).cpu().numpy()


def _length(tokens: Tokens) -> int:
    return tokens["input_ids"].shape[1]
