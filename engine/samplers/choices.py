"""How likely every choice of every question about an image is, in one forward pass and without decoding.

Legend: B images of a batch, T tokens of a row, R places where a next token is read, V vocabulary, N features
of an image, F their width, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from engine.clock import FORWARD
from engine.models.phi import dense_attention, run_layers
from engine.samplers.choice_rows import Ask, Row, lay_out, padded, row_mask
from engine.samplers.reading import ReadingModel, embedded, prefix_mask

TOKENS = 4096
"""Tokens of a forward pass, padding included, unless one row is longer."""
LOGIT_ROWS = 256
"""Places whose logits are held at a time."""


class Seen(NamedTuple):
    """An image with its questions, as the model sees it."""

    prefix: list[int]
    asks: list[Ask]
    features: Tensor | None = None
    """[N, F] where understanding sees CLIP features; the prefix holds a pad for each."""


class Chosen(NamedTuple):
    """One choice of one question."""

    logp: float
    """Log-probability of its tokens and its end."""
    greedy: tuple[bool, ...]
    """For each of its tokens and its end, whether it is the likeliest after those before it."""


@torch.inference_mode()
def choose(model: ReadingModel, images: Sequence[Seen], tokens: int = TOKENS) -> list[list[list[Chosen]]]:
    """[image][question][choice]; images of like length share a pass."""
    rows = [lay_out(one.prefix, one.asks, model.config.vocabulary.eos) for one in images]
    order = sorted((i for i, row in enumerate(rows) if row.reads), key=lambda i: len(rows[i].ids))
    found: list[list[list[Chosen]]] = [[[] for _ in one.asks] for one in images]
    while order:
        # From the longest down: the first row of a batch gives its width.
        count = max(1, tokens // len(rows[order[-1]].ids))
        batch = order[-count:]
        del order[-count:]
        read = _read(model, [rows[i] for i in batch], [images[i].features for i in batch])
        for i, chosen in zip(batch, read, strict=True):
            found[i] = chosen
    return found


def _read(
    model: ReadingModel, rows: Sequence[Row], features: Sequence[Tensor | None]
) -> list[list[list[Chosen]]]:
    pad = model.config.vocabulary.pad
    hidden = embedded(model, padded([row.ids for row in rows], pad), features)
    mask = row_mask(
        padded([row.question for row in rows], -1),
        padded([row.choice for row in rows], 0),
        prefix_mask(model.config),
    )
    cos, sin = model.rotary(padded([row.positions for row in rows], 0))
    with FORWARD:
        hidden = run_layers(model.layers, hidden, cos, sin, dense_attention(mask))
    starts = accumulate((len(row.places) for row in rows), initial=0)
    which = torch.tensor([i for i, row in enumerate(rows) for _ in row.places])
    places = torch.tensor([place for row in rows for place in row.places])
    sources = torch.tensor(
        [start + read[2] for start, row in zip(starts, rows, strict=False) for read in row.reads]
    )
    tokens = torch.tensor([read[3] for row in rows for read in row.reads])
    logps, greedy = _next_tokens(model, hidden[which, places], sources, tokens)
    values = iter(zip(logps.tolist(), greedy.tolist(), strict=True))
    return [_gathered(row, [next(values) for _ in row.reads]) for row in rows]


def _next_tokens(
    model: ReadingModel, hidden_RD: Tensor, sources: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-prob of each token as the next at its source, a row of `hidden_RD`, and whether it is likeliest."""
    logps = torch.zeros(len(tokens))
    greedy = torch.zeros(len(tokens), dtype=torch.bool)
    for start in range(0, len(hidden_RD), LOGIT_ROWS):
        part = hidden_RD[start : start + LOGIT_ROWS]
        with FORWARD:
            logits_RV = model.token_logits(model.final_norm(part)).float()
        of_part = ((sources >= start) & (sources < start + len(part))).nonzero()[:, 0]
        local, wanted = sources[of_part] - start, tokens[of_part]
        logps[of_part] = logits_RV[local, wanted] - logits_RV.logsumexp(-1)[local]
        greedy[of_part] = logits_RV.argmax(-1)[local] == wanted
    return logps, greedy


def _gathered(row: Row, values: Sequence[tuple[float, bool]]) -> list[list[Chosen]]:
    """The values of a row's reads, by question and choice."""
    by_choice: dict[tuple[int, int], list[tuple[float, bool]]] = {}
    for (question, choice, _, _), value in zip(row.reads, values, strict=True):
        by_choice.setdefault((question, choice), []).append(value)
    found: list[list[Chosen]] = [[] for _ in range(max(row.question))]
    for (question, _), read in by_choice.items():
        logps, greedy = zip(*read, strict=True)
        found[question].append(Chosen(logp=sum(logps), greedy=greedy))
    return found
