"""A batch of canvases and their texts, as the model sees them: in a form for CPUs and in one for GPUs.

Legend: B canvases, T text tokens, N image tokens, S = N + 2 canvas rows, R positions that are read,
H heads, E head dimension, D hidden, K image codes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.metering.stopwatch import FORWARD
from engine.models.phi import run_layers
from engine.models.showo_vocabulary import Vocabulary
from engine.samplers.mask_predict_rule import guide
from engine.samplers.painting import CanvasModel
from engine.samplers.text_prefix import KeysValues, Prefixes, padding


class Canvas:
    """The form for CPUs: hidden positions alone are read, and all canvases attend in one call.

    Keys and values are laid out one layer at a time.
    """

    def __init__(self, model: CanvasModel, prefixes: Prefixes) -> None:
        self._model, self._prefixes = model, prefixes
        keys = prefixes.layers[0][0]
        batch, heads, self._start, size = keys.shape
        rows, self._cos, self._sin = _places(model)
        padded = min(prefixes.lengths) < self._start
        pads = padding(prefixes.lengths, self._start, model.device)
        self._mask = F.pad(~pads, (0, rows), value=True) if padded else None
        self._keys, self._values = (keys.new_empty(batch, heads, self._start + rows, size) for _ in range(2))

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
        """Guided float32 logits [R, K] of the positions that are read, in row-major order."""
        with FORWARD:
            logits = self._logits(codes_BN, guidance != 0)
        if not guidance:
            return logits
        conditional, unconditional = logits.chunk(2)
        return guide(conditional, unconditional, guidance)

    def _logits(self, codes_BN: Tensor, twice: bool) -> Tensor:
        ids = canvas_ids(codes_BN, self._model.config.vocabulary)
        hidden = self._model.embed(ids)
        hidden = torch.cat((hidden, hidden)) if twice else hidden
        read = self._read(codes_BN, twice)
        rows = run_layers(self._model.layers, hidden, self._cos, self._sin, self._attend, read)
        return self._model.code_logits(self._model.final_norm(rows)).float()

    def _read(self, codes_BN: Tensor, twice: bool) -> Tensor:
        """Which of the canvas rows leave the last block, as `run_layers` takes it."""
        unknown = F.pad(codes_BN < 0, (1, 1)).flatten()
        return torch.cat((unknown, unknown)) if twice else unknown

    def read(self, x_BN: Tensor, unknown_BN: Tensor) -> Tensor:
        """What belongs to the positions that are read, [R]."""
        return x_BN[unknown_BN]

    def merged(self, x_BN: Tensor, unknown_BN: Tensor, found_R: Tensor) -> Tensor:
        """x_BN with what was found at the unknown positions."""
        return x_BN.masked_scatter(unknown_BN, found_R)


class StaticCanvas(Canvas):
    """The form for GPUs: no shape depends on what is hidden, and no step makes the host wait.

    All positions are read. Canvases with text and canvases without it attend each in a call of their own, and
    their texts' keys stand behind the canvas's: where texts are equally long neither call needs a mask, and
    PyTorch takes its flash kernel.
    """

    def __init__(
        self, model: CanvasModel, batch: int, text: Prefixes, empty: Prefixes | None, masked: bool
    ) -> None:
        """`text` is one prefix for all canvases or one for each, `empty` the one prefix of no text.

        `masked` is for texts that may differ in length.
        """
        self._model = model
        rows, self._cos, self._sin = _places(model)
        pads = padding(text.lengths, text.layers[0][0].shape[2], model.device)
        self._masks = [F.pad(~pads, (rows, 0), value=True) if masked else None, None]
        self._texts = [_laid_out(one, batch) for one in (text, empty) if one is not None]
        every = torch.arange(len(self._texts) * batch * rows, device=model.device)
        self._every = every.view(-1, rows)[:, 1:-1].flatten()

    def held(self) -> list[Tensor]:
        """What depends on the texts; another canvas's can be copied into them."""
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


def canvas_ids(codes_BN: Tensor, vocabulary: Vocabulary) -> Tensor:
    """`[soi] codes [eoi]` as ids, [B, N + 2]; a code of -1 is the mask token."""
    ids = (codes_BN + vocabulary.code_offset).masked_fill(codes_BN < 0, vocabulary.mask)
    return F.pad(F.pad(ids, (1, 0), value=vocabulary.soi), (0, 1), value=vocabulary.eoi)


def _places(model: CanvasModel) -> tuple[int, Tensor, Tensor]:
    """S, and the rotary tables of a canvas's positions."""
    rows = model.config.num_image_tokens + 2
    return rows, *model.rotary(torch.arange(rows, device=model.device) + model.config.max_text_len + 1)


def _laid_out(prefixes: Prefixes, batch: int) -> KeysValues:
    """Keys and values [B, T, H, E] of their own for each of a batch."""

    def own(x: Tensor) -> Tensor:
        spread = x.transpose(1, 2).expand(batch, -1, -1, -1)
        return spread.clone(memory_format=torch.contiguous_format)

    return [(own(k), own(v)) for k, v in prefixes.layers]
