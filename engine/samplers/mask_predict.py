"""Show-o's image sampler: mask-predict over static batches of images, with classifier-free guidance.

All codes are masked at first. Each step samples a code for every masked position and masks the least
confident of them again. Every image takes the same number of steps, so a batch never changes shape.

A batch has two forms. The one for CPUs computes logits of masked positions alone. The one for GPUs has
passes of the same shapes throughout, whatever is masked.

Legend: B images, N image tokens, R positions that are read, K image codes.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from engine.errors import EngineError
from engine.metering.stopwatch import FORWARD
from engine.models.phi import PrefixLM
from engine.records import ImageSettings
from engine.samplers.batch_size import launches_dominate
from engine.samplers.mask_predict_rule import at_most, gumbel, mask_again, temperatures, wanted_masked
from engine.samplers.masked_images import MaskedImages, StaticMaskedImages, TextPrefixes, text_prefixes
from engine.samplers.replay import Capture, Replayed
from engine.samplers.token_rule import draw

PROMPTS = 32
"""Prompts whose prefixes are held at a time."""
STATIC_PROMPTS = 16
"""The same in the form for GPUs, whose prefixes have full length: 25 MB each at 1.3B."""
Slot = tuple[int, int]
"""A candidate: the number of its prompt among those that are held, and its seed."""
StepFunction = Callable[..., tuple[Tensor, ...]]
"""`advance` on a batch of images."""


class SamplerCache:
    """What calls of `generate` leave for later ones with the same weights."""

    def __init__(self, capture: Capture | None = None, halves: bool = True) -> None:
        """`capture` is for steps whose launches take longer than their work (`replay.captured`).

        `halves` is whether a batch that does not fit into the memory may be halved.
        """
        self.capture, self.halves = capture, halves
        self.empty: TextPrefixes | None = None
        """The prefix of no text."""
        self.most = sys.maxsize
        """Images that fit into the memory, as far as is known."""
        self.step: tuple[object, StaticMaskedImages, Replayed] | None = None
        """The last captured step: what it is for, the images that it samples, and itself."""


@torch.inference_mode()
def generate(
    model: PrefixLM,
    texts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    settings: ImageSettings,
    batch: int,
    cache: SamplerCache | None = None,
    static: bool | None = None,
) -> list[list[list[int]]]:
    """Codes of every candidate of every prompt: [prompt][candidate][N].

    `texts` are prompts as text ids, without specials; `seeds` holds a seed for each candidate of each.
    `cache` is what earlier calls have left. `static` chooses the form of the batches, which is the device's
    where it is None. All random numbers of a candidate come from its own generator, so it does not depend on
    the batch. A batch that does not fit into the memory is halved, and stderr says so.

    Raises:
        EngineError: the schedule is not known, or not even one image fits into the memory.
    """
    cache = cache or SamplerCache()
    if static is None:
        static = model.device.type == "cuda"
    batch = min(batch, cache.most)
    if settings.guidance and cache.empty is None:
        cache.empty = text_prefixes(model, [()])
    fewest = max(1, min(map(len, seeds), default=1))
    batches: Batches = MaskedBatches(model, settings, cache)
    if static:
        batches = StaticBatches(model, settings, cache, batch, fewest)
    sampled: list[list[list[int]]] = [[] for _ in texts]
    # A replayed step starts no clock of its own: on a GPU this one runs through all steps.
    with FORWARD if static else nullcontext():
        for first in range(0, len(texts), batches.prompts):
            window = slice(first, first + batches.prompts)
            batches.hold(texts[window])
            todo = [(prompt, seed) for prompt, row in enumerate(seeds[window]) for seed in row]
            found: list[Tensor] = []
            done = 0
            while done < len(todo):
                part = todo[done : done + batches.together(todo[done:], batch)]
                slots = [*part, *[part[-1]] * (batch - len(part))] if static else part
                codes_BN = _fitting(batches, slots, settings.steps, model, cache)
                if codes_BN is None:
                    batch = cache.most
                else:
                    found.append(codes_BN[: len(part)])
                    done += len(part)
            rows = torch.cat(found).tolist() if found else []
            for (prompt, _), codes in zip(todo, rows, strict=True):
                sampled[first + prompt].append(codes)
    return sampled


def _fitting(
    batches: Batches, slots: Sequence[Slot], steps: int, model: PrefixLM, cache: SamplerCache
) -> Tensor | None:
    """Codes [B, N] of some candidates; None where they do not fit into the memory, and from then on fewer."""
    # Before anything that waits for the batch before.
    tokens = model.config.num_image_tokens
    uniform = torch.stack([randoms(seed, steps, tokens) for _, seed in slots], 2)
    try:
        return batches.sampled([prompt for prompt, _ in slots], uniform)
    except torch.OutOfMemoryError as error:
        if len(slots) == 1 or not cache.halves:
            raise EngineError(
                f"generating {len(slots)} images at a time does not fit into the GPU's memory; lower"
                " engine.kv_cache_gib, or end what else uses the GPU"
            ) from error
    # Only here are the tensors of the failed batch free: the error held them.
    cache.most, cache.step = len(slots) // 2, None
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    print(
        f"generating {len(slots)} images at a time does not fit into the GPU's memory;"
        f" going on with {cache.most}",
        file=sys.stderr,
    )
    return None


def randoms(seed: int, steps: int, tokens: int) -> Tensor:
    """All uniform numbers of one candidate, [steps, 2, N]: for the draw and for the confidence noise."""
    return torch.rand(steps, 2, tokens, generator=torch.Generator().manual_seed(seed))


class Batches(ABC):
    """Samples the candidates of some prompts, batch by batch."""

    prompts: int
    """Prompts to hold at a time."""

    @abstractmethod
    def hold(self, texts: Sequence[Sequence[int]]) -> None:
        """Computes the prefixes of the next prompts."""

    @abstractmethod
    def together(self, todo: Sequence[Slot], batch: int) -> int:
        """How many of the first of some candidates are sampled together."""

    @abstractmethod
    def sampled(self, rows: Sequence[int], uniform: Tensor) -> Tensor:
        """Codes [B, N] of a candidate of each prompt in `rows`; `uniform` is [steps, 2, B, N] on the CPU.

        Raises:
            torch.OutOfMemoryError: the batch does not fit into the memory.
        """


class MaskedBatches(Batches):
    """The form for CPUs: logits of masked positions alone."""

    prompts = PROMPTS

    def __init__(self, model: PrefixLM, settings: ImageSettings, cache: SamplerCache) -> None:
        self._model, self._settings = model, settings
        self._empty = cache.empty if settings.guidance else None

    def hold(self, texts: Sequence[Sequence[int]]) -> None:
        self._prefixes = text_prefixes(self._model, texts)
        self._opened: dict[int, Tensor] = {}

    def together(self, todo: Sequence[Slot], batch: int) -> int:
        return min(batch, len(todo))

    def sampled(self, rows: Sequence[int], uniform: Tensor) -> Tensor:
        model, guidance = self._model, self._settings.guidance
        # Before the first step all images of a prompt are alike, so its logits are computed once a prompt.
        self._opened = {prompt: self._opened[prompt] for prompt in {*rows} & self._opened.keys()}
        if missing := sorted({*rows} - self._opened.keys()):
            images = MaskedImages(model, self._seen(missing))
            logits = images.logits(all_masked(model, len(missing)), guidance).chunk(len(missing))
            self._opened |= dict(zip(missing, logits, strict=True))
        first_RK = torch.cat([self._opened[prompt] for prompt in rows])
        step = partial(advance, MaskedImages(model, self._seen(rows)), guidance)
        return _all_steps(model, self._settings, uniform, step, first_RK)

    def _seen(self, rows: Sequence[int]) -> TextPrefixes:
        """The prefixes of some images, and after them those of no text for their guidance."""
        seen = self._prefixes.picked(rows)
        return seen if self._empty is None else seen.joined(self._empty.picked([0] * len(rows)))


class StaticBatches(Batches):
    """The form for GPUs: all passes have the same shapes, so what else they sample does not change a bit.

    Prefixes are computed at full length and so many at a time; batches are to be full. A batch holds
    candidates of one prompt, whose text needs no mask; or, where a prompt has too few of them or the step is
    captured, those of several prompts under a mask.
    """

    def __init__(
        self, model: PrefixLM, settings: ImageSettings, cache: SamplerCache, batch: int, candidates: int
    ) -> None:
        """`candidates` are the fewest of a prompt."""
        self._model, self._settings, self._cache = model, settings, cache
        self._empty = cache.empty if settings.guidance else None
        self._room = model.config.max_text_len + 1
        self._captured = cache.capture is not None and launches_dominate(model.config, batch)
        self._several = self._captured or batch > candidates
        together = -(-batch // candidates)
        self.prompts = together * max(1, STATIC_PROMPTS // together)

    def hold(self, texts: Sequence[Sequence[int]]) -> None:
        filled = [*texts, *[texts[-1]] * (self.prompts - len(texts))]
        self._prefixes = text_prefixes(self._model, filled, self._room)

    def together(self, todo: Sequence[Slot], batch: int) -> int:
        return sum(self._several or slot[0] == todo[0][0] for slot in todo[:batch])

    def sampled(self, rows: Sequence[int], uniform: Tensor) -> Tensor:
        model, settings = self._model, self._settings
        text = self._prefixes.picked(rows, self._room) if self._several else self._prefixes.picked(rows[:1])
        images = StaticMaskedImages(model, len(rows), text, self._empty, masked=self._several)
        step: StepFunction = partial(advance, images, settings.guidance)
        if self._captured:
            step = self._replayed(images, step, len(rows))
        # A replayed step overwrites what it gave.
        return _all_steps(model, settings, uniform, step).clone()

    def _replayed(self, images: StaticMaskedImages, step: StepFunction, batch: int) -> StepFunction:
        """The step as it was captured, now on these texts; captured anew for another shape."""
        cache, shape = self._cache, (batch, self._settings.guidance)
        if cache.step is not None and cache.step[0] == shape:
            for held, given in zip(cache.step[1].held(), images.held(), strict=True):
                held.copy_(given)
        else:
            assert cache.capture is not None
            cache.step = None
            codes_BN = all_masked(self._model, batch)
            half, one = codes_BN.new_full((), 0.5, dtype=torch.float32), codes_BN.new_ones(())
            examples = codes_BN, half.expand(2, *codes_BN.shape), half, one
            cache.step = shape, images, Replayed(step, examples, cache.capture)
        return cache.step[2]


def all_masked(model: PrefixLM, images: int) -> Tensor:
    """Codes [B, N] of images that are masked all over."""
    return torch.full((images, model.config.num_image_tokens), -1, device=model.device)


def _all_steps(
    model: PrefixLM,
    settings: ImageSettings,
    uniform: Tensor,
    step: StepFunction,
    first_RK: Tensor | None = None,
) -> Tensor:
    """Codes [B, N] of one batch; `first_RK` are the logits of its first step."""
    device, steps, tokens = model.device, settings.steps, model.config.num_image_tokens
    uniform = uniform.to(device)
    heat = torch.tensor(temperatures(settings.temperature, steps), dtype=torch.float32, device=device)
    wanted = [wanted_masked(tokens, number, steps, settings.schedule) for number in range(steps)]
    left = torch.stack(wanted).to(device)
    codes_BN = sampled_BN = all_masked(model, uniform.shape[2])
    for number in range(steps):
        now = [codes_BN, uniform[number], heat[number], left[number]]
        if number == 0 and first_RK is not None:
            now.append(first_RK)
        sampled_BN, codes_BN = step(*now)
    return sampled_BN


def advance(
    images: MaskedImages,
    guidance: float,
    codes_BN: Tensor,
    uniform_2BN: Tensor,
    temperature: Tensor,
    wanted: Tensor,
    logits_RK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step: the sampled codes [B, N], and the same with -1 where they are masked again."""
    unknown_BN = codes_BN < 0
    if logits_RK is None:
        logits_RK = images.logits(codes_BN, guidance)
    drawn_R, logp_R = draw(logits_RK, images.read(uniform_2BN[0], unknown_BN))
    sampled_BN = images.merged(codes_BN, unknown_BN, drawn_R)
    logp_BN = images.merged(torch.zeros_like(uniform_2BN[0]), unknown_BN, logp_R)
    left_B = at_most(unknown_BN.sum(-1), wanted)
    masked_BN = mask_again(logp_BN, unknown_BN, gumbel(uniform_2BN[1]), temperature, left_B)
    return sampled_BN, sampled_BN.masked_fill(masked_BN, -1)
