"""Continuations of images, all of a batch together: many captions of each from one stem, or answers.

Legend: B images, R branches, N branches that run, S tokens of a branch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.records import CaptionSettings
from engine.samplers.choice_rows import Seen, common_start
from engine.samplers.reading import ReadingModel, uploaded
from engine.samplers.stems import Branches, Stem, next_logits, read_stems, run_branches
from engine.samplers.token_rule import Rules, uniforms


class Grown(NamedTuple):
    """One candidate."""

    ids: list[int]
    """Its tokens, eos included where it ended by itself."""
    logps: list[float]
    """Their log-probs under the model, before temperature and cuts."""


class Asked(NamedTuple):
    """An image and texts that go on behind it, each to be continued."""

    stem: Stem
    texts: list[tuple[int, ...]]
    """At least one, and none is empty."""


def asked_behind(seen: Seen) -> Asked:
    """An image's questions, their common start as part of the stem."""
    start = common_start(seen.asks)
    stem = Stem([*seen.prefix, *seen.asks[0].text[:start]], seen.features)
    return Asked(stem, [ask.text[start:] for ask in seen.asks])


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
    n, settings, device = len(plan), list(plan) * len(stems), model.device
    longest = max(one.max_tokens for one in plan)
    read = read_stems(model, stems)
    of = torch.arange(len(stems), device=device).repeat_interleave(n)
    rules, room = Rules(settings, device), uploaded([one.max_tokens for one in settings], device)
    uniform = torch.stack([uniforms(seed, longest) for row in seeds for seed in row]).to(device)
    seen = _seen(stems, model.config.vocab_size, device)[of] if rules.penalised else None
    branches = Branches(read, of, longest)
    start = torch.zeros_like(room)
    grown = _continue(
        model, branches, read.tokens, start, next_logits(model, read.last)[of], rules, room, uniform, seen
    )
    return [grown[first : first + n] for first in range(0, len(grown), n)]


@torch.inference_mode()
def reply(model: ReadingModel, asked: Sequence[Asked], longest: int) -> list[list[list[int]]]:
    """The greedy continuation of every text, [image][text], of up to `longest` tokens, eos included.

    All stems are equally long.
    """
    read, device = read_stems(model, [one.stem for one in asked]), model.device
    texts = [text for one in asked for text in one.texts]
    of = uploaded([number for number, one in enumerate(asked) for _ in one.texts], device)
    lengths = uploaded([len(text) for text in texts], device)
    branches = Branches(read, of, int(lengths.max()) + longest - 1)
    branch = torch.arange(len(texts), device=device).repeat_interleave(lengths)
    place = torch.cat([torch.arange(len(text), device=device) for text in texts])
    ids = uploaded([token for text in texts for token in text], device)
    last = run_branches(
        model, ids, place + read.tokens, branches.attend(branch, place), lengths.cumsum(0) - 1
    )
    greedy = Rules([CaptionSettings(temperature=0.0)] * len(texts), device)
    room = torch.full_like(lengths, longest)
    uniform = torch.zeros(len(texts), longest, device=device)
    logits = next_logits(model, last)
    grown = iter(_continue(model, branches, read.tokens, lengths, logits, greedy, room, uniform, None))
    return [[next(grown).ids for _ in one.texts] for one in asked]


def _continue(
    model: ReadingModel,
    branches: Branches,
    stem_tokens: int,
    start: Tensor,
    logits: Tensor,
    rules: Rules,
    room: Tensor,
    uniform: Tensor,
    seen: Tensor | None,
) -> list[Grown]:
    """Continues R branches, which have `start` [R] tokens of their own, up to `room` [R] tokens each.

    `logits` [R, V] are those of the first new token, `uniform` [R, S] decides every draw, `seen` [R, V] says
    which tokens a branch holds, where that matters.
    """
    eos = model.config.vocabulary.eos
    tokens_RS = torch.full_like(uniform, eos, dtype=torch.int64)
    logps_RS = torch.zeros_like(uniform)
    lengths, rows = torch.zeros_like(room), torch.arange(len(room), device=room.device)
    for step in range(int(room.max())):
        tokens = rules.choose(logits, rows, uniform[rows, step], None if seen is None else seen[rows])
        tokens_RS[rows, step] = tokens
        logps_RS[rows, step] = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        lengths[rows] = step + 1
        if seen is not None:
            seen[rows, tokens] = True
        going = (tokens != eos) & (step + 1 < room[rows])
        rows, tokens = rows[going], tokens[going]
        if not len(rows):
            break
        place = start[rows] + step
        hidden = run_branches(model, tokens, place + stem_tokens, branches.attend(rows, place))
        logits = next_logits(model, hidden)
    return [
        Grown(ids[:length], logps[:length])
        for ids, logps, length in zip(tokens_RS.tolist(), logps_RS.tolist(), lengths.tolist(), strict=True)
    ]


def _seen(stems: Sequence[Stem], size: int, device: torch.device) -> Tensor:
    """Which tokens each stem holds, [B, V]."""
    seen = torch.zeros(len(stems), size, dtype=torch.bool, device=device)
    return seen.scatter_(1, uploaded([one.ids for one in stems], device), True)
