"""A batch of masked images and their texts, as the model sees them: in a form for CPUs and in one for GPUs.

A masked image `[soi] codes [eoi]` has the mask token in place of codes that are not known yet. It sees its
text and all of itself. The text sees only itself, so its keys and values are computed once and serve all
steps of all candidates.

Legend: B images or texts, T text tokens, N image tokens, S = N + 2 rows of an image, R positions that are
read, H heads, E head dimension, D hidden, K image codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.metering.stopwatch import FORWARD
from engine.models.phi import PrefixLM, dense_attention, run_layers
from engine.models.showo_vocabulary import Vocabulary
from engine.samplers.mask_predict_rule import guide

KeysValues = list[tuple[Tensor, Tensor]]
"""For each layer the rotated keys and the values of B texts, each [B, H, T, E], ending at T."""


class TextPrefixes(NamedTuple):
    """What masked images see of their texts."""

    layers: KeysValues
    lengths: list[int]
    """Of each text; what stands before it is padding."""

    def picked(self, rows: Sequence[int], width: int = 0) -> TextPrefixes:
        """Some texts, in the order of `rows`, cut to what they or `width` need."""
        lengths = [self.lengths[row] for row in rows]
        index, longest = torch.tensor(rows, device=self.layers[0][0].device), max(width, *lengths)
        layers = [(k[index, :, -longest:], v[index, :, -longest:]) for k, v in self.layers]
        return TextPrefixes(layers, lengths)

    def joined(self, other: TextPrefixes) -> TextPrefixes:
        """These, and after them the others; the shorter ones get padding on the left."""
        longest = max(self.lengths + other.lengths)

        def both(one: Tensor, more: Tensor) -> Tensor:
            return torch.cat([F.pad(x, (0, 0, longest - x.shape[2], 0)) for x in (one, more)])

        layers = [
            (both(k, more_k), both(v, more_v))
            for (k, v), (more_k, more_v) in zip(self.layers, other.layers, strict=True)
        ]
        return TextPrefixes(layers, self.lengths + other.lengths)


@torch.inference_mode()
def text_prefixes(model: PrefixLM, texts: Sequence[Sequence[int]], width: int = 0) -> TextPrefixes:
    """Keys and values of each text, as `[t2i][bos] text [eos]` at the positions that padding gives it.

    T is `width` where no text is longer.
    """
    words, room, device = model.config.vocabulary, model.config.max_text_len, model.device
    rows = [words.t2i_text(text, room) for text in texts]
    lengths = [len(row) for row in rows]
    longest = max(width, *lengths)
    ids = torch.tensor([[*[words.pad] * (longest - len(row)), *row] for row in rows], device=device)
    # Padding stands on the left and counts as positions, as in training. All texts end at the same position,
    # so aligning them to the right gives every token its own.
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
    return TextPrefixes(kept, lengths)


def padding(lengths: Sequence[int], longest: int, device: torch.device) -> Tensor:
    """[B, 1, 1, T], True before each prefix."""
    pads = [[place < longest - length for place in range(longest)] for length in lengths]
    return torch.tensor(pads, device=device)[:, None, None]


class MaskedImages:
    """The form for CPUs: masked positions alone are read, and all images attend in one call."""

    def __init__(self, model: PrefixLM, prefixes: TextPrefixes) -> None:
        self._model, self._prefixes = model, prefixes
        keys = prefixes.layers[0][0]
        batch, heads, self._start, size = keys.shape
        rows, self._cos, self._sin = _positions(model)
        padded = min(prefixes.lengths) < self._start
        pads = padding(prefixes.lengths, self._start, model.device)
        self._mask = F.pad(~pads, (0, rows), value=True) if padded else None
        self._keys, self._values = (keys.new_empty(batch, heads, self._start + rows, size) for _ in range(2))

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # All layers lay their keys and values out in the same memory, one after the other.
        for whole, of_text, of_image in zip(
            (self._keys, self._values), self._prefixes.layers[layer], (k, v), strict=True
        ):
            whole[:, :, : self._start] = of_text
            whole[:, :, self._start :] = of_image.transpose(1, 2)
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), self._keys, self._values, attn_mask=self._mask
        )
        return out.transpose(1, 2)

    def logits(self, codes_BN: Tensor, guidance: float) -> Tensor:
        """Guided float32 logits [R, K] of the positions that are read, in row-major order."""
        with FORWARD:
            logits = self._logits(codes_BN, guidance != 0)
        if not guidance:
            return logits
        conditional, unconditional = logits.chunk(2)
        return guide(conditional, unconditional, guidance)

    def _logits(self, codes_BN: Tensor, twice: bool) -> Tensor:
        ids = masked_ids(codes_BN, self._model.config.vocabulary)
        hidden = self._model.embed(ids)
        hidden = torch.cat((hidden, hidden)) if twice else hidden
        read = self._read(codes_BN, twice)
        rows = run_layers(self._model.layers, hidden, self._cos, self._sin, self._attend, read)
        return self._model.code_logits(self._model.final_norm(rows)).float()

    def _read(self, codes_BN: Tensor, twice: bool) -> Tensor:
        """Which of the rows leave the last block, as `run_layers` takes it: not soi and eoi."""
        unknown = F.pad(codes_BN < 0, (1, 1)).flatten()
        return torch.cat((unknown, unknown)) if twice else unknown

    def read(self, x_BN: Tensor, unknown_BN: Tensor) -> Tensor:
        """What belongs to the positions that are read, [R]."""
        return x_BN[unknown_BN]

    def merged(self, x_BN: Tensor, unknown_BN: Tensor, found_R: Tensor) -> Tensor:
        """x_BN with what was found at the unknown positions."""
        return x_BN.masked_scatter(unknown_BN, found_R)


class StaticMaskedImages(MaskedImages):
    """The form for GPUs: no shape depends on what is masked, and no step makes the host wait.

    All positions are read. Images with text and images without it attend each in a call of their own, and
    their texts' keys stand behind the image's: where texts are equally long neither call needs a mask, and
    PyTorch takes its flash kernel.
    """

    def __init__(
        self, model: PrefixLM, batch: int, text: TextPrefixes, empty: TextPrefixes | None, masked: bool
    ) -> None:
        """`text` is one prefix for all images or one for each, `empty` the one prefix of no text.

        `masked` is for texts that may differ in length.
        """
        self._model = model
        rows, self._cos, self._sin = _positions(model)
        pads = padding(text.lengths, text.layers[0][0].shape[2], model.device)
        self._masks = [F.pad(~pads, (rows, 0), value=True) if masked else None, None]
        self._texts = [_laid_out(one, batch) for one in (text, empty) if one is not None]
        every = torch.arange(len(self._texts) * batch * rows, device=model.device)
        self._every = every.view(-1, rows)[:, 1:-1].flatten()

    def held(self) -> list[Tensor]:
        """What depends on the texts; that of other images can be copied into them."""
        masks = [mask for mask in self._masks if mask is not None]
        return [*masks, *(one for half in self._texts for pair in half for one in pair)]

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found = []
        halves = zip(*(x.chunk(len(self._texts)) for x in (q, k, v)), strict=True)
        for half, (some_q, *own) in enumerate(halves):
            keys, values = (torch.cat(pair, 1) for pair in zip(own, self._texts[half][layer], strict=True))
            some_q, keys, values = (x.transpose(1, 2) for x in (some_q, keys, values))
            out = F.scaled_dot_product_attention(some_q, keys, values, attn_mask=self._masks[half])
            found.append(out.transpose(1, 2))
        return torch.cat(found)

    def _read(self, codes_BN: Tensor, twice: bool) -> Tensor:
        return self._every

    def read(self, x_BN: Tensor, unknown_BN: Tensor) -> Tensor:
        return x_BN.flatten()

    def merged(self, x_BN: Tensor, unknown_BN: Tensor, found_R: Tensor) -> Tensor:
        return torch.where(unknown_BN, found_R.view_as(x_BN), x_BN)


def masked_ids(codes_BN: Tensor, vocabulary: Vocabulary) -> Tensor:
    """`[soi] codes [eoi]` as ids, [B, N + 2]; a code of -1 is the mask token."""
    ids = (codes_BN + vocabulary.code_offset).masked_fill(codes_BN < 0, vocabulary.mask)
    return F.pad(F.pad(ids, (1, 0), value=vocabulary.soi), (0, 1), value=vocabulary.eoi)


def _positions(model: PrefixLM) -> tuple[int, Tensor, Tensor]:
    """S, and the rotary tables of an image's positions."""
    rows = model.config.num_image_tokens + 2
    return rows, *model.rotary(torch.arange(rows, device=model.device) + model.config.max_text_len + 1)


def _laid_out(prefixes: TextPrefixes, batch: int) -> KeysValues:
    """Keys and values [B, T, H, E] of their own for each of a batch."""

    def own(x: Tensor) -> Tensor:
        spread = x.transpose(1, 2).expand(batch, -1, -1, -1)
        return spread.clone(memory_format=torch.contiguous_format)

    return [(own(k), own(v)) for k, v in prefixes.layers]
