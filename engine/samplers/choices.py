"""How likely every choice of every question about an image is, in one forward pass and without decoding.

A question and all its choices are one continuation of the image's prefix:

    prefix | text | choice 1 | choice 2 | ...

The text sees the prefix and its own past; a choice sees the prefix, the text and its own past, and no other
choice. Positions go on from what a token sees, so every choice stands where it would stand alone.

On a CPU prefixes and continuations run as flat rows, without padding, through a kernel that knows both.
Elsewhere an image is one row of a batch, `prefix | continuations | padding`, under a boolean mask: stock
attention takes it, and nothing in the pass waits for the device.

Legend: B images of a pass, O tokens behind a prefix, T tokens of an image, R places where a next token is
read, V vocabulary, D hidden.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from engine.metering.stopwatch import FORWARD
from engine.models.phi import PrefixLM, dense_attention, run_layers
from engine.samplers.continuations import (
    Continuations,
    ImageQuestions,
    Prefix,
    TokenizedQuestion,
    embedded,
    next_logits,
    prefix_mask,
    read_prefixes,
    run_new_tokens,
    uploaded,
)

TOKENS = 4096
"""Tokens of a forward pass, padding included, unless one image has more."""
LOGIT_ROWS = 256
"""Places whose logits are held at a time, a multiple of what a product's rows are computed in."""


class ChoiceLogprob(NamedTuple):
    """One choice of one question."""

    logp: float
    """Log-probability of its tokens and its end."""
    greedy: tuple[bool, ...]
    """For each of its tokens and its end, whether it is the likeliest after those before it."""


class Continuation(NamedTuple):
    """A question and its choices behind their prefix; a number a token, but for `places` and `reads`."""

    ids: list[int]
    positions: list[int]
    shared: int
    """Tokens of the text, which all choices see."""
    first: list[int]
    """Where the choice of each token starts; 0 in the text."""
    places: list[int]
    """Where a next token is read: the end of the text and every token of a choice."""
    reads: list[tuple[int, int, int]]
    """(choice, index into `places`, next token); a choice ends with eos."""


class LaidImage(NamedTuple):
    """An image as a prefix and the continuations of its questions."""

    number: int
    prefix: Prefix
    continuations: list[Continuation]

    @property
    def tokens(self) -> int:
        """All of them, the prefix included."""
        return len(self.prefix.ids) + sum(len(one.ids) for one in self.continuations)


class Pass(NamedTuple):
    """What one forward pass found of every read of its images, in order; it lies where the model does."""

    images: list[LaidImage]
    logps: Tensor
    greedy: Tensor


def read_choices(
    model: PrefixLM,
    images: Sequence[ImageQuestions],
    tokens: int = TOKENS,
    dense: bool | None = None,
    halves: bool = True,
) -> list[list[list[ChoiceLogprob]]]:
    """[image][question][choice]; images share a pass where their prefixes are equally long.

    What an image is given does not depend on the others. `dense` lays a pass out for stock attention, by
    default everywhere but on a CPU. Where a GPU's memory runs out, passes are halved; not so where `halves`
    is false, for processes that share the layers and must all compute the same passes.
    """

    def read(most: int) -> list[Pass]:
        return passes(model, images, most, dense)

    found: list[list[list[ChoiceLogprob]]] = [[[] for _ in one.questions] for one in images]
    for one in halving(read, tokens, "tokens of questions") if halves else read(tokens):
        values = iter(zip(one.logps.tolist(), one.greedy.tolist(), strict=True))
        for image in one.images:
            found[image.number] = [
                _gathered(continuation, [next(values) for _ in continuation.reads])
                for continuation in image.continuations
            ]
    return found


@torch.inference_mode()
def passes(
    model: PrefixLM, images: Sequence[ImageQuestions], tokens: int = TOKENS, dense: bool | None = None
) -> list[Pass]:
    """All of `read_choices` but the fetching of what was found, for which the host has to wait."""
    dense = model.device.type != "cpu" if dense is None else dense
    eos = model.config.vocabulary.eos
    laid = [
        LaidImage(i, one.prefix, [lay_out(len(one.prefix.ids), question, eos) for question in one.questions])
        for i, one in enumerate(images)
        if any(question.choices for question in one.questions)
    ]
    # Of a batch that is padded, the images are best of one size.
    laid.sort(key=lambda one: (len(one.prefix.ids), one.tokens if dense else 0))
    read = _dense if dense else _flat
    return [
        Pass(batch, *_next_tokens(model, read(model, batch), batch))
        for _, group in groupby(laid, key=lambda one: len(one.prefix.ids))
        for batch in _batches(group, tokens, dense)
    ]


def lay_out(prefix: int, question: TokenizedQuestion, eos: int) -> Continuation:
    """A question and its choices behind a prefix of so many tokens."""
    size = len(question.text)
    laid = Continuation(
        [*question.text], list(range(prefix, prefix + size)), size, [0] * size, [size - 1], []
    )
    for which, ids in enumerate(question.choices):
        start, index = len(laid.ids), len(laid.places)
        laid.ids.extend(ids)
        laid.positions.extend(range(prefix + size, prefix + size + len(ids)))
        laid.first.extend([start] * len(ids))
        laid.places.extend(range(start, start + len(ids)))
        # The first token of a choice is read at the end of the text, each other at the one before it.
        sources = [0, *range(index, index + len(ids))]
        laid.reads.extend((which, *read) for read in zip(sources, (*ids, eos), strict=True))
    return laid


def _batches(images: Iterator[LaidImage], tokens: int, padded: bool) -> list[list[LaidImage]]:
    """Images in passes of at most `tokens` tokens, unless one alone has more."""
    batches: list[list[LaidImage]] = [[]]
    for one in images:
        sizes = [other.tokens for other in (*batches[-1], one)]
        if (len(sizes) * max(sizes) if padded else sum(sizes)) > tokens and batches[-1]:
            batches.append([])
        batches[-1].append(one)
    return batches


def _flat(model: PrefixLM, images: Sequence[LaidImage]) -> Tensor:
    """Hidden states of the places that are read, [R, D]: prefixes first, then their continuations."""
    device = model.device
    read = read_prefixes(model, [one.prefix for one in images])
    continuations = [continuation for one in images for continuation in one.continuations]
    sizes = uploaded([len(continuation.ids) for continuation in continuations], device)
    prefix = uploaded([number for number, one in enumerate(images) for _ in one.continuations], device)
    continuation = torch.arange(len(continuations), device=device).repeat_interleave(sizes)
    place = torch.cat([torch.arange(len(one.ids), device=device) for one in continuations])
    shared = uploaded([one.shared for one in continuations], device).repeat_interleave(sizes)
    first = uploaded([value for one in continuations for value in one.first], device)
    starts = (sizes.cumsum(0) - sizes).tolist()
    places = [start + place for start, one in zip(starts, continuations, strict=True) for place in one.places]
    # A text sees all of its past: what stands in its way is only ever another choice.
    attend = Continuations(read, prefix, int(sizes.max()), persistent=False).attend(
        continuation, place, torch.minimum(shared, place + 1), torch.where(first > 0, first, place + 1)
    )
    ids = uploaded([value for one in continuations for value in one.ids], device)
    positions = uploaded([value for one in continuations for value in one.positions], device)
    return run_new_tokens(model, ids, positions, attend, uploaded(places, device))


class Row(NamedTuple):
    """All continuations of an image, one after another; a number a token, but for `places`."""

    ids: list[int]
    positions: list[int]
    begin: list[int]
    """Besides the prefix a token sees what is from here on before `shared`, or from `first` on, to itself."""
    shared: list[int]
    first: list[int]
    places: list[int]
    """Of all reads, in order."""


def _in_a_row(continuations: Sequence[Continuation], size: int) -> Row:
    """The continuations as `size` tokens; those that fill up see themselves alone, and nothing sees them."""
    row = Row([], [], [], [], [], [])
    for one in continuations:
        start, count = len(row.ids), len(one.ids)
        row.ids.extend(one.ids)
        row.positions.extend(one.positions)
        row.begin.extend([start] * count)
        row.shared.extend([start + one.shared] * count)
        row.first.extend(start + first for first in one.first)
        row.places.extend(start + place for place in one.places)
    spare = range(len(row.ids), size)
    for numbers in (row.ids, row.positions):
        numbers.extend([0] * len(spare))
    for numbers in (row.begin, row.shared, row.first):
        numbers.extend(spare)
    return row


def _dense(model: PrefixLM, images: Sequence[LaidImage]) -> Tensor:
    """The same with each image as a row of prefix, continuations and padding."""
    device, prefix = model.device, len(images[0].prefix.ids)
    longest = max(one.tokens for one in images)
    rows = [_in_a_row(one.continuations, longest - prefix) for one in images]
    ids = [[*one.prefix.ids, *row.ids] for one, row in zip(images, rows, strict=True)]
    positions = [[*range(prefix), *row.positions] for row in rows]
    places = [number * longest + prefix + place for number, row in enumerate(rows) for place in row.places]
    ids_BT, positions_BT, places_R = (uploaded(one, device) for one in (ids, positions, places))
    seen_B3O = uploaded([[row.begin, row.shared, row.first] for row in rows], device)
    begin_BO1, shared_BO1, first_BO1 = seen_B3O[..., None].unbind(1)
    key_O = torch.arange(longest - prefix, device=device)
    past_BOO = (key_O >= begin_BO1) & (key_O <= key_O[:, None])
    mask_BTT = torch.zeros(len(images), longest, longest, dtype=torch.bool, device=device)
    mask_BTT[:, :prefix, :prefix] = prefix_mask(model.config, prefix, device)
    mask_BTT[:, prefix:, :prefix] = True
    mask_BTT[:, prefix:, prefix:] = past_BOO & ((key_O < shared_BO1) | (key_O >= first_BO1))
    with FORWARD:
        hidden = embedded(model, ids_BT, [one.prefix.features for one in images])
        cos, sin = model.rotary(positions_BT)
        return run_layers(model.layers, hidden, cos, sin, dense_attention(mask_BTT[:, None]), places_R)


def _next_tokens(model: PrefixLM, hidden_RD: Tensor, images: Sequence[LaidImage]) -> tuple[Tensor, Tensor]:
    """Of every read the log-prob of its token as the next at its source, and whether it is likeliest."""
    sources: list[int] = []
    wanted: list[int] = []
    offset = 0
    for continuation in (continuation for one in images for continuation in one.continuations):
        sources += [offset + source for _, source, _ in continuation.reads]
        wanted += [token for _, _, token in continuation.reads]
        offset += len(continuation.places)
    device = hidden_RD.device
    logps = torch.zeros(len(wanted), device=device)
    greedy = torch.zeros(len(wanted), dtype=torch.bool, device=device)
    for start in range(0, len(hidden_RD), LOGIT_ROWS):
        part = hidden_RD[start : start + LOGIT_ROWS]
        # Picked by the host, which knows the places: for what a device picks the host would wait.
        reads = [i for i, source in enumerate(sources) if 0 <= source - start < len(part)]
        if not reads:
            continue
        picked = [[values[i] for i in reads] for values in (range(len(sources)), sources, wanted)]
        of_part, local, tokens = uploaded(picked, device)
        local = local - start
        logits_RV = next_logits(model, part)
        logps[of_part] = logits_RV[local, tokens] - logits_RV.logsumexp(-1)[local]
        greedy[of_part] = logits_RV.argmax(-1)[local] == tokens
    return logps, greedy


def _gathered(continuation: Continuation, values: Sequence[tuple[float, bool]]) -> list[ChoiceLogprob]:
    """The values of a continuation's reads, by choice."""
    by_choice: dict[int, list[tuple[float, bool]]] = {}
    for (which, _, _), value in zip(continuation.reads, values, strict=True):
        by_choice.setdefault(which, []).append(value)
    found = []
    for read in by_choice.values():
        logps, greedy = zip(*read, strict=True)
        found.append(ChoiceLogprob(logp=sum(logps), greedy=greedy))
    return found


T = TypeVar("T")


def halving(run: Callable[[int], T], batch: int, what: str) -> T:
    """What `run` gives for a batch of this size, halved and tried again while a GPU's memory runs out.

    `what` names the members of a batch, for the line on stderr that says so.

    Raises:
        torch.OutOfMemoryError: a batch of 1 needs too much.
    """
    while True:
        try:
            return run(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        # Out of the handler, whose exception would keep what the failed try had allocated.
        print(
            f"{batch} {what} at a time do not fit into the GPU's memory; going on with {batch // 2}",
            file=sys.stderr,
        )
        batch //= 2
