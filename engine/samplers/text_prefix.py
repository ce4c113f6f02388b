"""The texts that canvases see, as keys and values that are computed once.

Legend: B prefixes, T text tokens, H heads, E head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.metering.stopwatch import FORWARD
from engine.models.phi import dense_attention, run_layers
from engine.samplers.painting import CanvasModel

KeysValues = list[tuple[Tensor, Tensor]]
"""For each layer the rotated keys and the values of B text prefixes, each [B, H, T, E], ending at T."""


class Prefixes(NamedTuple):
    """What canvases see of their texts."""

    layers: KeysValues
    lengths: list[int]
    """Of each prefix; what stands before it is padding."""


@torch.inference_mode()
def text_prefixes(model: CanvasModel, texts: Sequence[Sequence[int]], width: int = 0) -> Prefixes:
    """Keys and values of each text, as `[t2i][bos] text [eos]` at the positions that padding gives it.

    T is `width` where no text is longer.
    """
    words, room, device = model.config.vocabulary, model.config.max_text_len, model.device
    rows = [words.t2i_text(text, room) for text in texts]
    lengths = [len(row) for row in rows]
    longest = max(width, *lengths)
    ids = torch.tensor([[*[words.pad] * (longest - len(row)), *row] for row in rows], device=device)
    # All end at the same position, so aligning them to the right gives every token its own.
    cos, sin = model.rotary(torch.arange(room + 1 - longest, room + 1, device=device))
    kept: KeysValues = []
    causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    itself = torch.eye(longest, dtype=torch.bool, device=device)
    attention = dense_attention(causal & ~padding(lengths, longest, device) | itself)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.append((k.transpose(1, 2), v.transpose(1, 2)))
        return attention(layer, q, k, v)

    with FORWARD:
        # Keys and values are all that is wanted: one token alone leaves the last block.
        one = torch.zeros(1, dtype=torch.int64, device=device)
        run_layers(model.layers, model.embed(ids), cos, sin, attend, one)
    return Prefixes(kept, lengths)


def picked(prefixes: Prefixes, rows: Sequence[int], width: int = 0) -> Prefixes:
    """Some prefixes, in the order of `rows`, cut to what they or `width` need."""
    lengths = [prefixes.lengths[row] for row in rows]
    index, longest = torch.tensor(rows, device=prefixes.layers[0][0].device), max(width, *lengths)
    layers = [(k[index, :, -longest:], v[index, :, -longest:]) for k, v in prefixes.layers]
    return Prefixes(layers, lengths)


def joined(first: Prefixes, second: Prefixes) -> Prefixes:
    """Both, one after the other; the shorter ones get padding on the left."""
    longest = max(first.lengths + second.lengths)

    def both(one: Tensor, other: Tensor) -> Tensor:
        return torch.cat([F.pad(x, (0, 0, longest - x.shape[2], 0)) for x in (one, other)])

    layers = [
        (both(k, more_k), both(v, more_v))
        for (k, v), (more_k, more_v) in zip(first.layers, second.layers, strict=True)
    ]
    return Prefixes(layers, first.lengths + second.lengths)


def padding(lengths: Sequence[int], longest: int, device: torch.device) -> Tensor:
    """[B, 1, 1, T], True before each prefix."""
    pads = [[place < longest - length for place in range(longest)] for length in lengths]
    return torch.tensor(pads, device=device)[:, None, None]
