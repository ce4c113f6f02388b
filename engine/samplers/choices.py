"""How likely every choice of every question about an image is, in one forward pass and without decoding.

On a CPU stems and branches run as flat rows, without padding, through a kernel that knows both. Elsewhere an
image is one row of a batch, `stem | branches | padding`, under a boolean mask: stock attention takes it, and
nothing in the pass waits for the device.

Legend: B images of a pass, S tokens of a stem, O tokens behind it, T = S + O, R places where a next token is
read, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from engine.metering.stopwatch import FORWARD
from engine.models.phi import dense_attention, run_layers
from engine.samplers.batch_size import halving
from engine.samplers.choice_rows import Branch, Seen, common_start, in_a_row, lay_out
from engine.samplers.reading import ReadingModel, embedded, stem_mask, uploaded
from engine.samplers.stems import Branches, Stem, next_logits, read_stems, run_branches

TOKENS = 4096
"""Tokens of a forward pass, padding included, unless one image has more."""
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


class Pass(NamedTuple):
    """What one forward pass found of every read of its images, in order; it lies where the model does."""

    images: list[_Laid]
    logps: Tensor
    greedy: Tensor


def choose(
    model: ReadingModel,
    images: Sequence[Seen],
    tokens: int = TOKENS,
    dense: bool | None = None,
    halves: bool = True,
) -> list[list[list[Chosen]]]:
    """[image][question][choice]; images share a pass where their stems are equally long.

    What an image is given does not depend on the others. `dense` lays a pass out for stock attention, by
    default everywhere but on a CPU. Where a GPU's memory runs out, passes are halved; not so where `halves`
    is false, for processes that share the layers and must all compute the same passes.
    """

    def read(most: int) -> list[Pass]:
        return passes(model, images, most, dense)

    found: list[list[list[Chosen]]] = [[[] for _ in one.asks] for one in images]
    for one in halving(read, tokens, "tokens of questions") if halves else read(tokens):
        values = iter(zip(one.logps.tolist(), one.greedy.tolist(), strict=True))
        for image in one.images:
            found[image.number] = [
                _gathered(branch, [next(values) for _ in branch.reads]) for branch in image.branches
            ]
    return found


@torch.inference_mode()
def passes(
    model: ReadingModel, images: Sequence[Seen], tokens: int = TOKENS, dense: bool | None = None
) -> list[Pass]:
    """All of `choose` but the fetching of what was found, for which the host has to wait."""
    dense = model.device.type != "cpu" if dense is None else dense
    eos = model.config.vocabulary.eos
    laid = [
        _laid(i, one, eos) for i, one in enumerate(images) if any(question.choices for question in one.asks)
    ]
    # Of a batch that is padded, the images are best of one size.
    laid.sort(key=lambda one: (len(one.stem.ids), one.tokens if dense else 0))
    read = _dense if dense else _flat
    return [
        Pass(batch, *_next_tokens(model, read(model, batch), batch))
        for _, group in groupby(laid, key=lambda one: len(one.stem.ids))
        for batch in _batches(group, tokens, dense)
    ]


def _laid(number: int, image: Seen, eos: int) -> _Laid:
    start = common_start(image.asks)
    ids = [*image.prefix, *image.asks[0].text[:start]]
    branches = [lay_out(len(ids), ask, start, eos) for ask in image.asks]
    return _Laid(number, Stem(ids, image.features), branches)


def _batches(images: Iterator[_Laid], tokens: int, padded: bool) -> list[list[_Laid]]:
    """Images in passes of at most `tokens` tokens, unless one alone has more."""
    batches: list[list[_Laid]] = [[]]
    for one in images:
        sizes = [other.tokens for other in (*batches[-1], one)]
        if (len(sizes) * max(sizes) if padded else sum(sizes)) > tokens and batches[-1]:
            batches.append([])
        batches[-1].append(one)
    return batches


def _flat(model: ReadingModel, images: Sequence[_Laid]) -> Tensor:
    """Hidden states of the places that are read, [R, D]: stems first, then their branches."""
    device = model.device
    stems = read_stems(model, [one.stem for one in images])
    branches = [branch for one in images for branch in one.branches]
    sizes = uploaded([len(branch.ids) for branch in branches], device)
    stem = uploaded([number for number, one in enumerate(images) for _ in one.branches], device)
    branch = torch.arange(len(branches), device=device).repeat_interleave(sizes)
    place = torch.cat([torch.arange(len(one.ids), device=device) for one in branches])
    shared = uploaded([one.shared for one in branches], device).repeat_interleave(sizes)
    first = uploaded([value for one in branches for value in one.first], device)
    starts = (sizes.cumsum(0) - sizes).tolist()
    places = [start + place for start, one in zip(starts, branches, strict=True) for place in one.places]
    # A text sees all of its past: what stands in its way is only ever another choice.
    attend = Branches(stems, stem, int(sizes.max()), persistent=False).attend(
        branch, place, torch.minimum(shared, place + 1), torch.where(first > 0, first, place + 1)
    )
    ids = uploaded([value for one in branches for value in one.ids], device)
    positions = uploaded([value for one in branches for value in one.positions], device)
    return run_branches(model, ids, positions, attend, uploaded(places, device))


def _dense(model: ReadingModel, images: Sequence[_Laid]) -> Tensor:
    """Hidden states of the places that are read, [R, D]: an image is a row of stem, branches and padding."""
    device, stem = model.device, len(images[0].stem.ids)
    longest = max(one.tokens for one in images)
    rows = [in_a_row(one.branches, longest - stem) for one in images]
    ids = [[*one.stem.ids, *row.ids] for one, row in zip(images, rows, strict=True)]
    positions = [[*range(stem), *row.positions] for row in rows]
    places = [number * longest + stem + place for number, row in enumerate(rows) for place in row.places]
    ids_BT, positions_BT, places_R = (uploaded(one, device) for one in (ids, positions, places))
    seen_B3O = uploaded([[row.begin, row.shared, row.first] for row in rows], device)
    begin_BO1, shared_BO1, first_BO1 = seen_B3O[..., None].unbind(1)
    key_O = torch.arange(longest - stem, device=device)
    past_BOO = (key_O >= begin_BO1) & (key_O <= key_O[:, None])
    mask_BTT = torch.zeros(len(images), longest, longest, dtype=torch.bool, device=device)
    mask_BTT[:, :stem, :stem] = stem_mask(model.config, stem, device)
    mask_BTT[:, stem:, :stem] = True
    mask_BTT[:, stem:, stem:] = past_BOO & ((key_O < shared_BO1) | (key_O >= first_BO1))
    with FORWARD:
        hidden = embedded(model, ids_BT, [one.stem.features for one in images])
        cos, sin = model.rotary(positions_BT)
        return run_layers(model.layers, hidden, cos, sin, dense_attention(mask_BTT[:, None]), places_R)


def _next_tokens(model: ReadingModel, hidden_RD: Tensor, images: Sequence[_Laid]) -> tuple[Tensor, Tensor]:
    """Of every read the log-prob of its token as the next at its source, and whether it is likeliest."""
    sources: list[int] = []
    wanted: list[int] = []
    offset = 0
    for branch in (branch for one in images for branch in one.branches):
        sources += [offset + source for _, source, _ in branch.reads]
        wanted += [token for _, _, token in branch.reads]
        offset += len(branch.places)
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
