"""Show-o's image sampler: mask-predict over static batches of canvases, with classifier-free guidance.

Every canvas takes the same number of steps, so a batch never changes shape. The text prefix sees only
itself: its keys and values are computed once a prompt, at the positions that it has behind its padding, and
serve all steps of all candidates. A canvas `[soi] codes [eoi]` sees the prefix and all of itself.

Legend: B canvases, T text tokens, N image tokens, S = N + 2 canvas rows, R hidden positions of all
canvases, H heads, E head dimension, D hidden, K image codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.clock import FORWARD
from engine.models.phi import PhiLayer, dense_attention, run_layers
from engine.models.showo_config import ShowoConfig
from engine.records import PaintSettings
from engine.samplers.mask_predict_rule import draw, guide, gumbel, hide_again, left_hidden, temperatures
from engine.vocabulary import Vocabulary

KeysValues = list[tuple[Tensor, Tensor]]
"""For each layer the rotated keys and the values of B text prefixes, each [B, H, T, E], ending at T."""

PROMPTS = 32
"""Prompts whose prefixes are held at a time."""


class Prefixes(NamedTuple):
    """What canvases see of their texts."""

    layers: KeysValues
    lengths: list[int]
    """Of each prefix; what stands before it is padding."""


class CanvasModel(Protocol):
    """What the sampler needs of a model: the training module and the one vLLM holds both offer it."""

    config: ShowoConfig

    @property
    def layers(self) -> Iterable[PhiLayer]:
        """The Phi blocks."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> [B, T, D]."""
        ...

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin at positions [T]."""
        ...

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The LayerNorm before the head."""
        ...

    def code_logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [R, D] -> logits over the image codes alone, [R, K]."""
        ...


@torch.inference_mode()
def paint(
    model: CanvasModel,
    texts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    settings: PaintSettings,
    batch: int,
    empty: Prefixes | None = None,
) -> list[list[list[int]]]:
    """Codes of every candidate of every prompt: [prompt][candidate][N].

    `texts` are prompts as text ids, without specials; `seeds` holds a seed for each candidate of each.
    `empty` are the prefixes of no text, where the caller has kept them from an earlier call.
    All random numbers of a candidate come from its own generator, so it does not depend on the batch.
    """
    painted: list[list[list[int]]] = [[] for _ in texts]
    if settings.guidance and empty is None:
        empty = text_prefixes(model, [()])
    for first in range(0, len(texts), PROMPTS):
        prefixes = text_prefixes(model, texts[first : first + PROMPTS])
        todo = [(prompt, seed) for prompt, row in enumerate(seeds[first : first + PROMPTS]) for seed in row]
        for start in range(0, len(todo), batch):
            part = todo[start : start + batch]
            seen = picked(prefixes, [prompt for prompt, _ in part])
            if settings.guidance and empty is not None:
                seen = joined(seen, picked(empty, [0] * len(part)))
            codes = paint_batch(model, seen, [seed for _, seed in part], settings)
            for (prompt, _), row in zip(part, codes.tolist(), strict=True):
                painted[first + prompt].append(row)
    return painted


@torch.inference_mode()
def text_prefixes(model: CanvasModel, texts: Sequence[Sequence[int]]) -> Prefixes:
    """Keys and values of each text, as `[t2i][bos] text [eos]` at the positions that padding gives it."""
    words, room = model.config.vocabulary, model.config.max_text_len
    rows = [words.t2i_text(text, room) for text in texts]
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    ids = torch.tensor([[*[words.pad] * (longest - len(row)), *row] for row in rows])
    # All end at the same position, so aligning them to the right gives every token its own.
    cos, sin = model.rotary(torch.arange(room + 1 - longest, room + 1))
    kept: KeysValues = []
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    attention = dense_attention(causal & ~_padding(lengths, longest) | torch.eye(longest, dtype=torch.bool))

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.append((k.transpose(1, 2), v.transpose(1, 2)))
        return attention(layer, q, k, v)

    with FORWARD:
        run_layers(model.layers, model.embed(ids), cos, sin, attend)
    return Prefixes(kept, lengths)


def picked(prefixes: Prefixes, rows: Sequence[int]) -> Prefixes:
    """Some prefixes, in the order of `rows`, without padding that none of them needs."""
    lengths, index = [prefixes.lengths[row] for row in rows], torch.tensor(rows)
    longest = max(lengths)
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


def _padding(lengths: Sequence[int], longest: int) -> Tensor:
    """[B, 1, 1, T], True before each prefix."""
    return (torch.arange(longest) < longest - torch.tensor(lengths)[:, None])[:, None, None]


def randoms(seed: int, steps: int, tokens: int) -> Tensor:
    """All uniform numbers of one candidate, [steps, 2, N]: for the draw and for the confidence noise."""
    return torch.rand(steps, 2, tokens, generator=torch.Generator().manual_seed(seed))


def paint_batch(
    model: CanvasModel, prefixes: Prefixes, seeds: Sequence[int], settings: PaintSettings
) -> Tensor:
    """Codes [B, N] of one static batch; `prefixes` are B conditional ones, then B unconditional or none."""
    tokens, steps = model.config.num_image_tokens, settings.steps
    uniform = torch.stack([randoms(seed, steps, tokens) for seed in seeds], 2)
    canvas = Canvas(model, prefixes)
    codes_BN = torch.full((len(seeds), tokens), -1)
    sampled_BN = codes_BN
    for step, temperature in enumerate(temperatures(settings.temperature, steps)):
        unknown_BN = codes_BN < 0
        logits_RK = canvas.logits(codes_BN, settings.guidance)
        drawn_R, logp_R = draw(logits_RK, uniform[step, 0][unknown_BN])
        sampled_BN = codes_BN.masked_scatter(unknown_BN, drawn_R)
        logp_BN = torch.zeros(codes_BN.shape).masked_scatter(unknown_BN, logp_R)
        left_B = left_hidden(unknown_BN.sum(-1), tokens, step, steps, settings.schedule)
        hidden_BN = hide_again(logp_BN, unknown_BN, gumbel(uniform[step, 1]), temperature, left_B)
        codes_BN = sampled_BN.masked_fill(hidden_BN, -1)
    return sampled_BN


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
        padding = _padding(self._prefixes.lengths, self._start)
        return F.pad(~padding, (0, rows), value=True) if padding.any() else None

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
        hidden = run_layers(self._model.layers, hidden, self._cos, self._sin, self._attend)[:, 1:-1]
        unknown = codes_BN < 0
        rows = hidden[torch.cat((unknown, unknown)) if twice else unknown]
        return self._model.code_logits(self._model.final_norm(rows)).float()


def canvas_ids(codes_BN: Tensor, vocabulary: Vocabulary) -> Tensor:
    """`[soi] codes [eoi]` as ids, [B, N + 2]; a code of -1 is the mask token."""
    ids = torch.where(codes_BN < 0, vocabulary.mask, codes_BN + vocabulary.code_offset)
    return F.pad(F.pad(ids, (1, 0), value=vocabulary.soi), (0, 1), value=vocabulary.eoi)
