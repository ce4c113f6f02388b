"""Many captions of each image, grown from one stem: `[mmu] image [eoi] prompt` runs once for all of them.

All candidates of a batch take their steps together. Their first tokens come from one row of logits an image;
after that, products run over the rows alone, and attention reads a stem once for all its candidates.

Legend: B images, T tokens of a stem, R rows (candidates that run), V vocabulary, H heads, E head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.clock import FORWARD
from engine.models.phi import dense_attention, run_layers
from engine.records import CaptionSettings
from engine.samplers.branch_cache import BranchCache, KeysValues
from engine.samplers.reading import ReadingModel, embedded, prefix_mask
from engine.samplers.token_rule import Rules, uniforms

STEM_TOKENS = 4096
"""Tokens of a forward pass over stems."""
LEAST_RUNNING = 7 / 8
"""Share of the rows that must run; below it the others are dropped from keys, values and products."""


class Stem(NamedTuple):
    """What all candidates of an image share."""

    ids: list[int]
    features: Tensor | None = None
    """[N, F] where understanding sees CLIP features; the ids hold a pad for each."""


class Grown(NamedTuple):
    """One candidate."""

    ids: list[int]
    """Its tokens, eos included where it ended by itself."""
    logps: list[float]
    """Their log-probs under the model, before temperature and cuts."""


@torch.inference_mode()
def grow(
    model: ReadingModel,
    stems: Sequence[Stem],
    plan: Sequence[CaptionSettings],
    seeds: Sequence[Sequence[int]],
) -> list[list[Grown]]:
    """A candidate for each stem and entry of the plan, [stem][entry]; all stems are equally long.

    `seeds` has the seed of each; a candidate depends on nothing else than its stem, its entry and its seed.
    """
    n, length, eos = len(plan), len(stems[0].ids), model.config.vocabulary.eos
    settings = list(plan) * len(stems)
    rules, room = Rules(settings), torch.tensor([one.max_tokens for one in settings])
    uniform = torch.stack([uniforms(seed, int(room.max())) for row in seeds for seed in row])
    stem_R = torch.arange(len(stems)).repeat_interleave(n)
    stored, last = _stems(model, stems)
    cache, logits = BranchCache(stored, stem_R), _logits(model, last)[stem_R]
    seen = _seen(stems, logits.shape[-1])[stem_R] if rules.penalised else None
    found = [Grown([], []) for _ in settings]
    rows, alive = torch.arange(len(settings)), torch.ones(len(settings), dtype=torch.bool)
    for step in range(int(room.max())):
        tokens = rules.choose(logits, rows, uniform[rows, step], None if seen is None else seen[rows])
        logps = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        for place in alive.nonzero()[:, 0].tolist():
            found[rows[place]].ids.append(int(tokens[place]))
            found[rows[place]].logps.append(float(logps[place]))
        alive = alive & (tokens != eos) & (step + 1 < room[rows])
        if not alive.any():
            break
        if seen is not None:
            seen[rows, tokens] = True
        if alive.float().mean() < LEAST_RUNNING:
            kept = alive.nonzero()[:, 0]
            cache.keep(kept)
            rows, tokens, alive = rows[kept], tokens[kept], alive[kept]
        cache.step()
        with FORWARD:
            cos, sin = model.rotary(torch.tensor([length + step]))
            hidden = run_layers(model.layers, model.embed(tokens[:, None]), cos, sin, cache.attend)
        logits = _logits(model, hidden[:, 0])
    return [found[start : start + n] for start in range(0, len(found), n)]


def _logits(model: ReadingModel, hidden: Tensor) -> Tensor:
    """Hidden states [R, D] before the final LayerNorm -> float32 [R, V]."""
    with FORWARD:
        return model.token_logits(model.final_norm(hidden)).float()


def _stems(model: ReadingModel, stems: Sequence[Stem]) -> tuple[KeysValues, Tensor]:
    """Keys and values of each layer, [B, H, T, E], and the last hidden states [B, D]."""
    length = len(stems[0].ids)
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    prefix = prefix_mask(model.config)
    seen[: len(prefix), : len(prefix)] = prefix
    attention = dense_attention(seen)
    cos, sin = model.rotary(torch.arange(length))
    parts: list[KeysValues] = []
    last = []
    count = max(1, STEM_TOKENS // length)
    for start in range(0, len(stems), count):
        part = stems[start : start + count]
        kept: KeysValues = []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, kept: KeysValues = kept) -> Tensor:
            kept.append((k.transpose(1, 2), v.transpose(1, 2)))
            return attention(layer, q, k, v)

        with FORWARD:
            hidden = embedded(model, torch.tensor([one.ids for one in part]), [one.features for one in part])
            last.append(run_layers(model.layers, hidden, cos, sin, attend)[:, -1])
        parts.append(kept)
    layers = [
        (torch.cat([k for k, _ in of_layer]).contiguous(), torch.cat([v for _, v in of_layer]).contiguous())
        for of_layer in zip(*parts, strict=True)
    ]
    return layers, torch.cat(last)


def _seen(stems: Sequence[Stem], size: int) -> Tensor:
    """Which tokens each stem holds, [B, V]."""
    seen = torch.zeros(len(stems), size, dtype=torch.bool)
    return seen.scatter_(1, torch.tensor([one.ids for one in stems]), True)
