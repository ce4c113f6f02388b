"""Continuations of images: an image and its prompt are read once, many captions or answers go on from there.

A prefix is `[mmu] image [eoi] prompt`. Its keys and values are computed once and serve all of its
continuations. The new tokens of all continuations run as flat rows, without padding.

Legend: B prefixes or images, T tokens of a prefix, C continuations, N new tokens of all of them, S tokens of
a continuation, H heads, E head dimension, F width of a feature, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.kernels.phi import ContinuationCache, NewTokens, PrefixCache, continuation_attention
from engine.machine.kv_cache import token_bytes
from engine.metering.stopwatch import FORWARD
from engine.models.masks import feature_mask
from engine.models.phi import Attend, PrefixLM, dense_attention, run_layers
from engine.models.showo_config import ShowoConfig
from engine.records import CaptionSettings
from engine.samplers.token_rule import TokenRules, uniforms

PREFIX_TOKENS = 4096
"""Tokens of a forward pass over prefixes."""
FILLED = 16
"""Rows of a head's product are a multiple of this."""


class Prefix(NamedTuple):
    """What all continuations of an image share."""

    ids: list[int]
    features: Tensor | None = None
    """[features, F] where understanding sees CLIP features; the ids hold a pad for each."""


class TokenizedQuestion(NamedTuple):
    """One question after an image's prefix."""

    text: tuple[int, ...]
    """Everything from the prefix to the point where the answer starts; never empty."""
    choices: tuple[tuple[int, ...], ...]
    """The ids of every choice, without their end."""
    room: int = 0
    """Tokens at which a free text ends at the latest, where one is decoded."""


class ImageQuestions(NamedTuple):
    """An image with its questions, as the model sees it."""

    prefix: Prefix
    questions: list[TokenizedQuestion]

    @classmethod
    def of(cls, prefix: Prefix, questions: Sequence[TokenizedQuestion]) -> Self:
        """With the words that begin all questions as part of the prefix, where they are computed once."""
        texts = [question.text for question in questions]
        # At least one token of each is left over: its hidden state gives the answer's first token.
        most = min(map(len, texts), default=1) - 1
        same = next((i for i in range(most) if len({text[i] for text in texts}) > 1), most)
        shared = texts[0][:same] if texts else ()
        left = [question._replace(text=question.text[same:]) for question in questions]
        return cls(Prefix([*prefix.ids, *shared], prefix.features), left)


class SampledSequence(NamedTuple):
    """One candidate."""

    ids: list[int]
    """Its tokens, eos included where it ended by itself."""
    logps: list[float]
    """Their log-probs under the model, before temperature and cuts."""


class Limits(NamedTuple):
    """What bounds the continuations that are sampled together."""

    dtype: str
    rows: int
    """Continuations in flight."""
    gib: float
    """Their keys and values, those of their images included."""

    def prefixes(self, config: ShowoConfig, length: int, continuations: int, longest: int) -> int:
        """Prefixes of `length` tokens at a time, each with so many continuations of `longest` tokens."""
        tokens = length + continuations * longest
        image = tokens * token_bytes(config, self.dtype, config.head_dim)
        return max(1, min(self.rows // continuations, int(self.gib * 2**30 / image)))


@torch.inference_mode()
def sample(
    model: PrefixLM,
    prefixes: Sequence[Prefix],
    plan: Sequence[CaptionSettings],
    seeds: Sequence[Sequence[int]],
    batch: int,
) -> list[list[SampledSequence]]:
    """A continuation of each prefix for each entry of the plan, [prefix][entry], `batch` prefixes at a time.

    All prefixes are equally long. `seeds` has the seed of each candidate, which depends on nothing else than
    its prefix, its entry and its seed.
    """
    n, longest, device = len(plan), max(one.max_tokens for one in plan), model.device
    sampled: list[list[SampledSequence]] = []
    for first in range(0, len(prefixes), batch):
        part, of_part = prefixes[first : first + batch], seeds[first : first + batch]
        read = read_prefixes(model, part)
        settings = list(plan) * len(part)
        rules, room = TokenRules(settings, device), uploaded([one.max_tokens for one in settings], device)
        uniform = torch.stack([uniforms(seed, longest) for row in of_part for seed in row]).to(device)
        prefix = torch.arange(len(part), device=device).repeat_interleave(n)
        held = _held(part, model.config.vocab_size, device)[prefix] if rules.penalised else None
        found = _continued(
            model,
            Continuations(read, prefix, longest),
            torch.zeros_like(room),
            # All candidates of an image start from the same logits.
            next_logits(model, read.last)[prefix],
            rules,
            room,
            uniform,
            held,
        )
        sampled += [found[start : start + n] for start in range(0, len(found), n)]
    return sampled


@torch.inference_mode()
def greedy(model: PrefixLM, images: Sequence[ImageQuestions], batch: int) -> list[list[list[int]]]:
    """The greedy answer to every question, [image][question], as long as it has room, eos included.

    All prefixes are equally long; `batch` images at a time.
    """
    answers: list[list[list[int]]] = []
    for first in range(0, len(images), batch):
        part = images[first : first + batch]
        found = iter(_greedy(model, part))
        answers += [[next(found).ids for _ in one.questions] for one in part]
    return answers


def _greedy(model: PrefixLM, images: Sequence[ImageQuestions]) -> list[SampledSequence]:
    """A continuation for each of C questions."""
    read, device = read_prefixes(model, [one.prefix for one in images]), model.device
    questions = [question for one in images for question in one.questions]
    texts = [question.text for question in questions]
    prefix = uploaded([number for number, one in enumerate(images) for _ in one.questions], device)
    lengths = uploaded([len(text) for text in texts], device)
    room = uploaded([question.room for question in questions], device)
    continuations = Continuations(read, prefix, int((lengths + room).max()) - 1)
    # The questions' own words in one pass; of each the last is the one that the answer follows.
    continuation = torch.arange(len(texts), device=device).repeat_interleave(lengths)
    place = torch.cat([torch.arange(len(text), device=device) for text in texts])
    ids = uploaded([token for text in texts for token in text], device)
    attend = continuations.attend(continuation, place)
    last = run_new_tokens(model, ids, place + read.tokens, attend, lengths.cumsum(0) - 1)
    rules = TokenRules([CaptionSettings(temperature=0.0)] * len(texts), device)
    uniform = torch.zeros(len(texts), int(room.max()), device=device)
    return _continued(model, continuations, lengths, next_logits(model, last), rules, room, uniform, None)


def _continued(
    model: PrefixLM,
    continuations: Continuations,
    start: Tensor,
    logits: Tensor,
    rules: TokenRules,
    room: Tensor,
    uniform: Tensor,
    held: Tensor | None,
) -> list[SampledSequence]:
    """Continues C continuations, which have `start` [C] tokens of their own, up to `room` [C] tokens each.

    `logits` [C, V] are those of the first new token, `uniform` [C, S] decides every draw, `held` [C, V] says
    which tokens a continuation holds, where that matters.
    """
    eos = model.config.vocabulary.eos
    tokens_CS = torch.full_like(uniform, eos, dtype=torch.int64)
    logps_CS = torch.zeros_like(uniform)
    lengths, rows = torch.zeros_like(room), torch.arange(len(room), device=room.device)
    for step in range(int(room.max())):
        FORWARD.decoded(len(rows))
        tokens = rules.choose(logits, rows, uniform[rows, step], None if held is None else held[rows])
        tokens_CS[rows, step] = tokens
        logps_CS[rows, step] = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        lengths[rows] = step + 1
        if held is not None:
            held[rows, tokens] = True
        # What has ended leaves the batch, so a step costs what still runs.
        going = (tokens != eos) & (step + 1 < room[rows])
        rows, tokens = rows[going], tokens[going]
        if not len(rows):
            break
        place = start[rows] + step
        attend = continuations.attend(rows, place)
        logits = next_logits(
            model, run_new_tokens(model, tokens, place + continuations.prefix_tokens, attend)
        )
    return [
        SampledSequence(ids[:length], logps[:length])
        for ids, logps, length in zip(tokens_CS.tolist(), logps_CS.tolist(), lengths.tolist(), strict=True)
    ]


def _held(prefixes: Sequence[Prefix], size: int, device: torch.device) -> Tensor:
    """Which tokens each prefix holds, [B, V]."""
    held = torch.zeros(len(prefixes), size, dtype=torch.bool, device=device)
    return held.scatter_(1, uploaded([one.ids for one in prefixes], device), True)


class ReadPrefixes(NamedTuple):
    """Prefixes of one length as the model has read them."""

    layers: list[PrefixCache]
    tokens: int
    last: Tensor
    """Hidden states of their last tokens, [B, D], before the final LayerNorm."""


def read_prefixes(model: PrefixLM, prefixes: Sequence[Prefix]) -> ReadPrefixes:
    """Reads prefixes of one length."""
    length, device = len(prefixes[0].ids), model.device
    attention = dense_attention(prefix_mask(model.config, length, device))
    cos, sin = model.rotary(torch.arange(length, device=device))
    count = max(1, PREFIX_TOKENS // length)
    parts: list[list[PrefixCache]] = []
    last = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts[-1].append(PrefixCache.of(k, v))
        return attention(layer, q, k, v)

    for start in range(0, len(prefixes), count):
        part = prefixes[start : start + count]
        ends = torch.arange(1, len(part) + 1, device=device) * length - 1
        ids = uploaded([one.ids for one in part], device)
        parts.append([])
        with FORWARD:
            hidden = embedded(model, ids, [one.features for one in part])
            last.append(run_layers(model.layers, hidden, cos, sin, attend, ends))
    layers = [
        PrefixCache(*(torch.cat(one) for one in zip(*of_layer, strict=True)))
        for of_layer in zip(*parts, strict=True)
    ]
    return ReadPrefixes(layers, length, torch.cat(last))


class Continuations:
    """Their own keys and values; `persistent` ones of every layer, else of one layer at a time."""

    def __init__(self, read: ReadPrefixes, prefix: Tensor, tokens: int, persistent: bool = True) -> None:
        """`prefix` [C] names the prefix of each continuation, `tokens` is the room of a continuation."""
        self.prefix_tokens = read.tokens
        self._layers, self._prefix = read.layers, prefix
        empty = [
            ContinuationCache.empty(len(prefix), tokens, read.layers[0])
            for _ in range(len(read.layers) if persistent else 1)
        ]
        self._own = empty if persistent else empty * len(read.layers)

    def attend(
        self, continuation: Tensor, place: Tensor, shared: Tensor | None = None, first: Tensor | None = None
    ) -> Attend:
        """Attention of new tokens, int64 [N] each (see `NewTokens`); by default each sees all before it."""
        none = torch.zeros_like(place)
        shared, first = none if shared is None else shared, none if first is None else first
        new = NewTokens(self._prefix, continuation, place, shared, first)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return continuation_attention(
                q, k, v, self._layers[layer], self.prefix_tokens, self._own[layer], new
            )

        return attend


def run_new_tokens(
    model: PrefixLM, ids: Tensor, positions: Tensor, attend: Attend, read: Tensor | None = None
) -> Tensor:
    """Hidden states of new tokens, ids [N] at positions [N], or of those that `read` names, [.., D]."""
    with FORWARD:
        cos, sin = model.rotary(positions)
        return run_layers(model.layers, model.embed(ids), cos, sin, attend, read)


def next_logits(model: PrefixLM, hidden: Tensor) -> Tensor:
    """Hidden states [C, D] before the final LayerNorm -> float32 [C, V]."""
    rows = len(hidden)
    with FORWARD:
        # A library may compute the last rows of a product otherwise than the rest. Rows are filled up, so
        # that what a row is given does not depend on how many others there are.
        filled = F.pad(hidden, (0, 0, 0, -rows % FILLED))
        return model.token_logits(model.final_norm(filled)).float()[:rows]


def uploaded(numbers: Sequence[object], device: torch.device) -> Tensor:
    """Whole numbers of the host where the model lies; nobody waits for what a device has yet to do."""
    return torch.tensor(numbers).to(device, non_blocking=True)


def embedded(model: PrefixLM, ids: Tensor, features: Sequence[Tensor | None]) -> Tensor:
    """ids [B, T] -> [B, T, D], with projected CLIP features in place of the ids that stand for them."""
    hidden = model.embed(ids)
    if model.config.w_clip_vit:
        start = model.config.image_start
        seen = torch.stack([one for one in features if one is not None])
        projected = model.project(seen.to(hidden.device, non_blocking=True))
        hidden[:, start : start + seen.shape[1]] = projected.to(hidden.dtype)
    return hidden


def prefix_mask(config: ShowoConfig, length: int, device: torch.device) -> Tensor:
    """What the tokens of `[mmu] image [eoi] text` see of each other, [T, T]."""
    if config.w_clip_vit:
        return feature_mask(length, config.image_start, config.clip_tokens, device)[0, 0]
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    # Show-o attends in both directions over the image; only the text after it is causal.
    mask[: config.prefix_length, : config.prefix_length] = True
    return mask
