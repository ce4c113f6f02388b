"""Show-o's image sampler: mask-predict over static batches of canvases, with classifier-free guidance.

Every canvas takes the same number of steps, so a batch never changes shape. The text prefix sees only
itself: its keys and values are computed once a prompt, without its padding, at the positions that it has
behind the padding. A canvas `[soi] codes [eoi]` sees the prefix and all of itself.

Legend: B canvases, T text tokens, N image tokens, S = N + 2 canvas rows, R hidden positions of all
canvases, H heads, E head dimension, D hidden, K image codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.phi import PhiLayer, dense_attention, run_layers
from engine.models.showo_config import ShowoConfig
from engine.records import PaintSettings
from engine.samplers.mask_predict_rule import draw, guide, gumbel, hide_again, left_hidden, temperatures
from engine.vocabulary import Vocabulary

KeysValues = list[tuple[Tensor, Tensor]]
"""For each layer the rotated keys and the values of a text prefix, each [T, H, E]."""


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
) -> list[list[list[int]]]:
    """Codes of every candidate of every prompt: [prompt][candidate][N].

    `texts` are prompts as text ids, without specials; `seeds` holds a seed for each candidate of each.
    All random numbers of a candidate come from its own generator, so it does not depend on the batch.
    """
    vocabulary, room = model.config.vocabulary, model.config.max_text_len
    prefixes = [text_prefix(model, vocabulary.t2i_text(text, room)) for text in texts]
    empty = text_prefix(model, vocabulary.t2i_text((), room)) if settings.guidance else None
    todo = [(prompt, seed) for prompt, of_prompt in enumerate(seeds) for seed in of_prompt]
    painted: list[list[list[int]]] = [[] for _ in texts]
    for start in range(0, len(todo), batch):
        part = todo[start : start + batch]
        rows = [prefixes[prompt] for prompt, _ in part] + ([empty] * len(part) if empty is not None else [])
        codes = paint_batch(model, rows, [seed for _, seed in part], settings)
        for (prompt, _), row in zip(part, codes.tolist(), strict=True):
            painted[prompt].append(row)
    return painted


def text_prefix(model: CanvasModel, text: Sequence[int]) -> KeysValues:
    """Keys and values of `[t2i][bos] text [eos]` at the positions that left padding gives it."""
    room = model.config.max_text_len
    start = model.config.vocabulary.t2i_pad(text, room)
    cos, sin = model.rotary(torch.arange(start, room + 1))
    causal = dense_attention(torch.ones(len(text), len(text), dtype=torch.bool).tril()[None, None])
    kept: KeysValues = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.append((k[0], v[0]))
        return causal(layer, q, k, v)

    run_layers(model.layers, model.embed(torch.tensor([list(text)])), cos, sin, attend)
    return kept


def randoms(seed: int, steps: int, tokens: int) -> Tensor:
    """All uniform numbers of one candidate, [steps, 2, N]: for the draw and for the confidence noise."""
    return torch.rand(steps, 2, tokens, generator=torch.Generator().manual_seed(seed))


def paint_batch(
    model: CanvasModel, prefixes: Sequence[KeysValues], seeds: Sequence[int], settings: PaintSettings
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
    """A batch of canvases as the model sees it: prefix keys and values laid out once, the rest rewritten."""

    def __init__(self, model: CanvasModel, prefixes: Sequence[KeysValues]) -> None:
        config = model.config
        self._model, self._vocabulary = model, config.vocabulary
        rows, lengths = config.num_image_tokens + 2, [len(prefix[0][0]) for prefix in prefixes]
        self._start = max(lengths)
        self._cos, self._sin = model.rotary(torch.arange(rows) + config.max_text_len + 1)
        self._mask = self._prefix_mask(lengths, rows)
        self._stored = [
            self._lay_out([prefix[layer] for prefix in prefixes], rows) for layer in range(len(prefixes[0]))
        ]

    def _prefix_mask(self, lengths: Sequence[int], rows: int) -> Tensor | None:
        """[B, 1, 1, T + S], True = may attend; None where all texts are equally long."""
        if len(set(lengths)) == 1:
            return None
        order = torch.arange(self._start + rows)
        return (order >= self._start - torch.tensor(lengths)[:, None])[:, None, None]

    def _lay_out(self, prefixes: Sequence[tuple[Tensor, Tensor]], rows: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, T + S, E] with every prefix right-aligned against its canvas."""
        key = prefixes[0][0]
        shape = (len(prefixes), key.shape[1], self._start + rows, key.shape[2])
        keys, values = key.new_zeros(shape), key.new_zeros(shape)
        for row, (k, v) in enumerate(prefixes):
            keys[row, :, self._start - len(k) : self._start] = k.transpose(0, 1)
            values[row, :, self._start - len(v) : self._start] = v.transpose(0, 1)
        return keys, values

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._stored[layer]
        keys[:, :, self._start :] = k.transpose(1, 2)
        values[:, :, self._start :] = v.transpose(1, 2)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=self._mask)
        return out.transpose(1, 2)

    def logits(self, codes_BN: Tensor, guidance: float) -> Tensor:
        """Guided float32 logits [R, K] of the hidden positions (-1) alone, in row-major order."""
        ids = canvas_ids(codes_BN, self._vocabulary)
        hidden = self._model.embed(ids)
        twice = guidance != 0
        hidden = torch.cat((hidden, hidden)) if twice else hidden
        hidden = run_layers(self._model.layers, hidden, self._cos, self._sin, self._attend)[:, 1:-1]
        unknown = codes_BN < 0
        rows = hidden[torch.cat((unknown, unknown)) if twice else unknown]
        logits = self._model.code_logits(self._model.final_norm(rows)).float()
        if not twice:
            return logits
        conditional, unconditional = logits.chunk(2)
        return guide(conditional, unconditional, guidance)


def canvas_ids(codes_BN: Tensor, vocabulary: Vocabulary) -> Tensor:
    """`[soi] codes [eoi]` as ids, [B, N + 2]; a code of -1 is the mask token."""
    ids = torch.where(codes_BN < 0, vocabulary.mask, codes_BN + vocabulary.code_offset)
    return F.pad(F.pad(ids, (1, 0), value=vocabulary.soi), (0, 1), value=vocabulary.eoi)
