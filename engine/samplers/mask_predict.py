"""Show-o's image sampler: mask-predict over static batches of canvases, with classifier-free guidance.

Every canvas takes the same number of steps, so a batch never changes shape. The text prefix sees only
itself: its keys and values are computed once a prompt, at the positions that it has behind its padding, and
serve all steps of all candidates. A canvas `[soi] codes [eoi]` sees the prefix and all of itself. Before the
first step all canvases of a prompt are alike, so that step's logits are computed once a prompt.

Legend: B canvases, N image tokens, R hidden positions of all canvases, K image codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.records import PaintSettings
from engine.samplers.canvas import Canvas
from engine.samplers.mask_predict_rule import draw, gumbel, hide_again, left_hidden, temperatures
from engine.samplers.painting import CanvasModel
from engine.samplers.text_prefix import Prefixes, joined, picked, text_prefixes

PROMPTS = 32
"""Prompts whose prefixes are held at a time."""


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
    if not settings.guidance:
        empty = None
    elif empty is None:
        empty = text_prefixes(model, [()])
    for first in range(0, len(texts), PROMPTS):
        prefixes = text_prefixes(model, texts[first : first + PROMPTS])
        todo = [(prompt, seed) for prompt, row in enumerate(seeds[first : first + PROMPTS]) for seed in row]
        opened: dict[int, Tensor] = {}
        for start in range(0, len(todo), batch):
            part = todo[start : start + batch]
            rows = [prompt for prompt, _ in part]
            opened = {prompt: opened[prompt] for prompt in {*rows} & opened.keys()}
            if missing := sorted({*rows} - opened.keys()):
                logits = _opening(model, _seen(prefixes, empty, missing), len(missing), settings)
                opened |= dict(zip(missing, logits, strict=True))
            first_RK = torch.cat([opened[prompt] for prompt in rows])
            canvas = Canvas(model, _seen(prefixes, empty, rows))
            codes = _painted(canvas, first_RK, [seed for _, seed in part], model, settings)
            for prompt, row in zip(rows, codes.tolist(), strict=True):
                painted[first + prompt].append(row)
    return painted


def _seen(prefixes: Prefixes, empty: Prefixes | None, rows: Sequence[int]) -> Prefixes:
    """The prefixes of some canvases, and after them those of no text for their guidance."""
    seen = picked(prefixes, rows)
    return seen if empty is None else joined(seen, picked(empty, [0] * len(rows)))


def _opening(model: CanvasModel, seen: Prefixes, prompts: int, settings: PaintSettings) -> tuple[Tensor, ...]:
    """Logits [N, K] of a canvas that is hidden all over, for each of some prompts."""
    hidden = torch.full((prompts, model.config.num_image_tokens), -1)
    return Canvas(model, seen).logits(hidden, settings.guidance).chunk(prompts)


def randoms(seed: int, steps: int, tokens: int) -> Tensor:
    """All uniform numbers of one candidate, [steps, 2, N]: for the draw and for the confidence noise."""
    return torch.rand(steps, 2, tokens, generator=torch.Generator().manual_seed(seed))


def _painted(
    canvas: Canvas, first_RK: Tensor, seeds: Sequence[int], model: CanvasModel, settings: PaintSettings
) -> Tensor:
    """Codes [B, N] of one static batch, from the logits of its first step on."""
    tokens, steps = model.config.num_image_tokens, settings.steps
    uniform = torch.stack([randoms(seed, steps, tokens) for seed in seeds], 2)
    codes_BN = torch.full((len(seeds), tokens), -1)
    sampled_BN = codes_BN
    for step, temperature in enumerate(temperatures(settings.temperature, steps)):
        unknown_BN = codes_BN < 0
        logits_RK = canvas.logits(codes_BN, settings.guidance) if step else first_RK
        drawn_R, logp_R = draw(logits_RK, uniform[step, 0][unknown_BN])
        sampled_BN = codes_BN.masked_scatter(unknown_BN, drawn_R)
        logp_BN = torch.zeros(codes_BN.shape).masked_scatter(unknown_BN, logp_R)
        left_B = left_hidden(unknown_BN.sum(-1), tokens, step, steps, settings.schedule)
        hidden_BN = hide_again(logp_BN, unknown_BN, gumbel(uniform[step, 1]), temperature, left_B)
        codes_BN = sampled_BN.masked_fill(hidden_BN, -1)
    return sampled_BN
