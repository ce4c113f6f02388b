"""A batch of canvases in front of their texts, as the model sees it.

Legend: B canvases, T text tokens, N image tokens, S = N + 2 canvas rows, R hidden positions of all canvases,
H heads, E head dimension, D hidden, K image codes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.clock import FORWARD
from engine.models.phi import run_layers
from engine.samplers.mask_predict_rule import guide
from engine.samplers.painting import CanvasModel
from engine.samplers.text_prefix import Prefixes, padding
from engine.vocabulary import Vocabulary


class Canvas:
    """A batch of canvases as the model sees it; keys and values are laid out one layer at a time."""

    def __init__(self, model: CanvasModel, prefixes: Prefixes) -> None:
        config = model.config
        self._model, self._vocabulary, self._prefixes = model, config.vocabulary, prefixes
        rows, keys = config.num_image_tokens + 2, prefixes.layers[0][0]
        batch, heads, self._start, size = keys.shape
        self._cos, self._sin = model.rotary(torch.arange(rows) + config.max_text_len + 1)
        self._mask = self._visible(rows)
        self._keys, self._values = (keys.new_empty(batch, heads, self._start + rows, size) for _ in range(2))

    def _visible(self, rows: int) -> Tensor | None:
        """[B, 1, 1, T + S], True = may attend; None where there is no padding."""
        pads = padding(self._prefixes.lengths, self._start)
        return F.pad(~pads, (0, rows), value=True) if pads.any() else None

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for whole, of_text, of_canvas in zip(
            (self._keys, self._values), self._prefixes.layers[layer], (k, v), strict=True
        ):
            whole[:, :, : self._start] = of_text
            whole[:, :, self._start :] = of_canvas.transpose(1, 2)
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), self._keys, self._values, attn_mask=self._mask
        )
        return out.transpose(1, 2)

    def logits(self, codes_BN: Tensor, guidance: float) -> Tensor:
        """Guided float32 logits [R, K] of the hidden positions (-1) alone, in row-major order."""
        with FORWARD:
            logits = self._logits(codes_BN, guidance != 0)
        if not guidance:
            return logits
        conditional, unconditional = logits.chunk(2)
        return guide(conditional, unconditional, guidance)

    def _logits(self, codes_BN: Tensor, twice: bool) -> Tensor:
        ids = canvas_ids(codes_BN, self._vocabulary)
        hidden = self._model.embed(ids)
        hidden = torch.cat((hidden, hidden)) if twice else hidden
        unknown = F.pad(codes_BN < 0, (1, 1)).flatten()
        read = torch.cat((unknown, unknown)) if twice else unknown
        rows = run_layers(self._model.layers, hidden, self._cos, self._sin, self._attend, read)
        return self._model.code_logits(self._model.final_norm(rows)).float()


def canvas_ids(codes_BN: Tensor, vocabulary: Vocabulary) -> Tensor:
    """`[soi] codes [eoi]` as ids, [B, N + 2]; a code of -1 is the mask token."""
    ids = torch.where(codes_BN < 0, vocabulary.mask, codes_BN + vocabulary.code_offset)
    return F.pad(F.pad(ids, (1, 0), value=vocabulary.soi), (0, 1), value=vocabulary.eoi)
