"""How likely every choice of every question about an image is, in one forward pass and without decoding.

Legend: R places where a next token is read, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from engine.samplers.choice_rows import Branch, Seen, common_start, lay_out
from engine.samplers.reading import ReadingModel
from engine.samplers.stems import Branches, Stem, next_logits, read_stems, run_branches

TOKENS = 4096
"""Tokens of a forward pass, unless one image has more."""
LOGIT_ROWS = 256
"""Places whose logits are held at a time, a multiple of what a product's rows are computed in."""


class Chosen(NamedTuple):
    """One choice of one question."""

    logp: float
    """Log-probability of its tokens and its end."""
    greedy: tuple[bool, ...]
    """For each of its tokens and its end, whether it is the likeliest after those before it."""


class _Laid(NamedTuple):
    """An image as a stem and the branches of its questions."""

    number: int
    stem: Stem
    branches: list[Branch]

    @property
    def tokens(self) -> int:
        return len(self.stem.ids) + sum(len(branch.ids) for branch in self.branches)


@torch.inference_mode()
def choose(model: ReadingModel, images: Sequence[Seen], tokens: int = TOKENS) -> list[list[list[Chosen]]]:
    """[image][question][choice]; images share a pass where their stems are equally long.

    What an image is given does not depend on the others.
    """
    eos = model.config.vocabulary.eos
    laid = [
        _laid(i, one, eos) for i, one in enumerate(images) if any(question.choices for question in one.asks)
    ]
    found: list[list[list[Chosen]]] = [[[] for _ in one.asks] for one in images]
    by_length = sorted(laid, key=lambda one: len(one.stem.ids))
    for _, group in groupby(by_length, key=lambda one: len(one.stem.ids)):
        for batch in _batches(list(group), tokens):
            for one, read in zip(batch, _read(model, batch), strict=True):
                found[one.number] = read
    return found


def _laid(number: int, image: Seen, eos: int) -> _Laid:
    start = common_start(image.asks)
    ids = [*image.prefix, *image.asks[0].text[:start]]
    branches = [lay_out(len(ids), ask, start, eos) for ask in image.asks]
    return _Laid(number, Stem(ids, image.features), branches)


def _batches(images: list[_Laid], tokens: int) -> list[list[_Laid]]:
    """Images in passes of at most `tokens` tokens, unless one alone has more."""
    batches: list[list[_Laid]] = []
    room = 0
    for one in images:
        if not batches or one.tokens > room:
            batches.append([])
            room = tokens
        batches[-1].append(one)
        room -= one.tokens
    return batches


def _read(model: ReadingModel, images: Sequence[_Laid]) -> list[list[list[Chosen]]]:
    stems = read_stems(model, [one.stem for one in images])
    branches = [branch for one in images for branch in one.branches]
    sizes = torch.tensor([len(branch.ids) for branch in branches])
    stem = torch.tensor([number for number, one in enumerate(images) for _ in one.branches])
    branch = torch.arange(len(branches)).repeat_interleave(sizes)
    place = torch.cat([torch.arange(len(one.ids)) for one in branches])
    shared = torch.tensor([one.shared for one in branches]).repeat_interleave(sizes)
    first = torch.tensor([value for one in branches for value in one.first])
    starts = (sizes.cumsum(0) - sizes).tolist()
    places = torch.tensor(
        [start + place for start, one in zip(starts, branches, strict=True) for place in one.places]
    )
    # A text sees all of its past: what stands in its way is only ever another choice.
    attend = Branches(stems, stem, int(sizes.max()), persistent=False).attend(
        branch, place, torch.minimum(shared, place + 1), torch.where(first > 0, first, place + 1)
    )
    ids = torch.tensor([value for one in branches for value in one.ids])
    positions = torch.tensor([value for one in branches for value in one.positions])
    hidden = run_branches(model, ids, positions, attend, places)
    sources, wanted, offset = [], [], 0
    for one in branches:
        sources += [offset + source for _, source, _ in one.reads]
        wanted += [token for _, _, token in one.reads]
        offset += len(one.places)
    logps, greedy = _next_tokens(model, hidden, torch.tensor(sources), torch.tensor(wanted))
    values = iter(zip(logps.tolist(), greedy.tolist(), strict=True))
    return [
        [_gathered(branch, [next(values) for _ in branch.reads]) for branch in one.branches] for one in images
    ]


def _next_tokens(
    model: ReadingModel, hidden_RD: Tensor, sources: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-prob of each token as the next at its source, a row of `hidden_RD`, and whether it is likeliest."""
    logps = torch.zeros(len(tokens))
    greedy = torch.zeros(len(tokens), dtype=torch.bool)
    for start in range(0, len(hidden_RD), LOGIT_ROWS):
        part = hidden_RD[start : start + LOGIT_ROWS]
        logits_RV = next_logits(model, part)
        of_part = ((sources >= start) & (sources < start + len(part))).nonzero()[:, 0]
        local, wanted = sources[of_part] - start, tokens[of_part]
        logps[of_part] = logits_RV[local, wanted] - logits_RV.logsumexp(-1)[local]
        greedy[of_part] = logits_RV.argmax(-1)[local] == wanted
    return logps, greedy


def _gathered(branch: Branch, values: Sequence[tuple[float, bool]]) -> list[Chosen]:
    """The values of a branch's reads, by choice."""
    by_choice: dict[int, list[tuple[float, bool]]] = {}
    for (which, _, _), value in zip(branch.reads, values, strict=True):
        by_choice.setdefault(which, []).append(value)
    found = []
    for read in by_choice.values():
        logps, greedy = zip(*read, strict=True)
        found.append(Chosen(logp=sum(logps), greedy=greedy))
    return found
