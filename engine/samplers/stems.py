"""What many continuations of an image share, computed once: keys and values of `[mmu] image [eoi] prompt`.

Continuations are branches of such a stem. Their new tokens run as flat rows, without padding.

Legend: B stems, T tokens of a stem, N new tokens of all branches, R branches or rows, H heads, E head
dimension, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.kernels.phi import BranchCache, Leaves, StemCache, branch_attention
from engine.metering.stopwatch import FORWARD
from engine.models.phi import Attend, dense_attention, run_layers
from engine.samplers.reading import ReadingModel, embedded, stem_mask, uploaded

STEM_TOKENS = 4096
"""Tokens of a forward pass over stems."""
FILLED = 16
"""Rows of a head's product are a multiple of this."""


class Stem(NamedTuple):
    """What all continuations of an image share."""

    ids: list[int]
    features: Tensor | None = None
    """[N, F] where understanding sees CLIP features; the ids hold a pad for each."""


class Stems(NamedTuple):
    """Stems of one length as the model has read them."""

    layers: list[StemCache]
    tokens: int
    last: Tensor
    """Hidden states of their last tokens, [B, D], before the final LayerNorm."""


def read_stems(model: ReadingModel, stems: Sequence[Stem]) -> Stems:
    """Reads stems of one length."""
    length, device = len(stems[0].ids), model.device
    attention = dense_attention(stem_mask(model.config, length, device))
    cos, sin = model.rotary(torch.arange(length, device=device))
    count = max(1, STEM_TOKENS // length)
    parts: list[list[StemCache]] = []
    last = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts[-1].append(StemCache.of(k, v))
        return attention(layer, q, k, v)

    for start in range(0, len(stems), count):
        part = stems[start : start + count]
        ends = torch.arange(1, len(part) + 1, device=device) * length - 1
        ids = uploaded([one.ids for one in part], device)
        parts.append([])
        with FORWARD:
            hidden = embedded(model, ids, [one.features for one in part])
            last.append(run_layers(model.layers, hidden, cos, sin, attend, ends))
    layers = [
        StemCache(*(torch.cat(one) for one in zip(*of_layer, strict=True)))
        for of_layer in zip(*parts, strict=True)
    ]
    return Stems(layers, length, torch.cat(last))


class Branches:
    """The branches' own keys and values; `persistent` ones of every layer, else of one layer at a time."""

    def __init__(self, stems: Stems, stem: Tensor, tokens: int, persistent: bool = True) -> None:
        """`stem` [R] names the stem of each branch, `tokens` is the room of a branch."""
        self._stems, self._stem = stems, stem
        empty = [
            BranchCache.empty(len(stem), tokens, stems.layers[0])
            for _ in range(len(stems.layers) if persistent else 1)
        ]
        self._own = empty if persistent else empty * len(stems.layers)

    def attend(
        self, branch: Tensor, place: Tensor, shared: Tensor | None = None, first: Tensor | None = None
    ) -> Attend:
        """Attention of new tokens, int64 [N] each (see `Leaves`); by default each sees all before it."""
        none = torch.zeros_like(place)
        leaves = Leaves(
            self._stem, branch, place, none if shared is None else shared, none if first is None else first
        )

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            stems, own = self._stems.layers[layer], self._own[layer]
            return branch_attention(q, k, v, stems, self._stems.tokens, own, leaves)

        return attend


def run_branches(
    model: ReadingModel, ids: Tensor, positions: Tensor, attend: Attend, read: Tensor | None = None
) -> Tensor:
    """Hidden states of new tokens, ids [N] at positions [N], or of those that `read` names, [.., D]."""
    with FORWARD:
        cos, sin = model.rotary(positions)
        return run_layers(model.layers, model.embed(ids), cos, sin, attend, read)


def next_logits(model: ReadingModel, hidden: Tensor) -> Tensor:
    """Hidden states [R, D] before the final LayerNorm -> float32 [R, V].

    A library may compute the last rows of a product otherwise than the rest. Rows are filled up, so that
    what a row is given does not depend on how many others there are.
    """
    rows = len(hidden)
    with FORWARD:
        filled = F.pad(hidden, (0, 0, 0, -rows % FILLED))
        return model.token_logits(model.final_norm(filled)).float()[:rows]
