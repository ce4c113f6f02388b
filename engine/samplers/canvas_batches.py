"""How a batch of candidates is painted: in a form for CPUs and in one for GPUs.

Legend: B canvases, N image tokens, R positions that are read, K image codes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from engine.models.phi import PrefixLM
from engine.records import PaintSettings
from engine.samplers.batch_size import launches_dominate
from engine.samplers.canvas import Canvas, StaticCanvas
from engine.samplers.mask_predict_rule import (
    at_most,
    gumbel,
    hide_again,
    temperatures,
    wanted_hidden,
)
from engine.samplers.replay import Capture, Replayed
from engine.samplers.text_prefix import Prefixes, joined, picked, text_prefixes
from engine.samplers.token_rule import draw

PROMPTS = 32
"""Prompts whose prefixes are held at a time."""
STATIC_PROMPTS = 16
"""The same in the form for GPUs, whose prefixes have full length: 25 MB each at 1.3B."""
Slot = tuple[int, int]
"""A candidate: the number of its prompt among those that are held, and its seed."""
Step = Callable[..., tuple[Tensor, ...]]
"""`advance` on a batch of canvases."""


class Kept:
    """What calls of `paint` leave for later ones with the same weights."""

    def __init__(self, capture: Capture | None = None, halves: bool = True) -> None:
        """`capture` is for steps whose launches take longer than their work (`replay.captured`).

        `halves` is whether a batch that does not fit into the memory may be halved.
        """
        self.capture, self.halves = capture, halves
        self.empty: Prefixes | None = None
        """The prefix of no text."""
        self.most = sys.maxsize
        """Canvases that fit into the memory, as far as is known."""
        self.step: tuple[object, StaticCanvas, Replayed] | None = None
        """The last captured step: what it is for, the canvases that it paints, and itself."""


class Batches(Protocol):
    """Paints the candidates of some prompts, batch by batch."""

    prompts: int
    """Prompts to hold at a time."""

    def hold(self, texts: Sequence[Sequence[int]]) -> None:
        """Computes the prefixes of the next prompts."""
        ...

    def together(self, todo: Sequence[Slot], batch: int) -> int:
        """How many of the first of some candidates are painted together."""
        ...

    def painted(self, rows: Sequence[int], uniform: Tensor) -> Tensor:
        """Codes [B, N] of a candidate of each prompt in `rows`; `uniform` is [steps, 2, B, N] on the CPU.

        Raises:
            torch.OutOfMemoryError: the batch does not fit into the memory.
        """
        ...


class HiddenBatches:
    """The form for CPUs: logits of hidden positions alone.

    Before the first step all canvases of a prompt are alike, so its logits are computed once a prompt.
    """

    prompts = PROMPTS

    def __init__(self, model: PrefixLM, settings: PaintSettings, kept: Kept) -> None:
        self._model, self._settings = model, settings
        self._empty = kept.empty if settings.guidance else None

    def hold(self, texts: Sequence[Sequence[int]]) -> None:
        self._prefixes = text_prefixes(self._model, texts)
        self._opened: dict[int, Tensor] = {}

    def together(self, todo: Sequence[Slot], batch: int) -> int:
        return min(batch, len(todo))

    def painted(self, rows: Sequence[int], uniform: Tensor) -> Tensor:
        model, guidance = self._model, self._settings.guidance
        self._opened = {prompt: self._opened[prompt] for prompt in {*rows} & self._opened.keys()}
        if missing := sorted({*rows} - self._opened.keys()):
            canvas = Canvas(model, self._seen(missing))
            logits = canvas.logits(all_hidden(model, len(missing)), guidance).chunk(len(missing))
            self._opened |= dict(zip(missing, logits, strict=True))
        first_RK = torch.cat([self._opened[prompt] for prompt in rows])
        step = partial(advance, Canvas(model, self._seen(rows)), guidance)
        return _painted(model, self._settings, uniform, step, first_RK)

    def _seen(self, rows: Sequence[int]) -> Prefixes:
        """The prefixes of some canvases, and after them those of no text for their guidance."""
        seen = picked(self._prefixes, rows)
        return seen if self._empty is None else joined(seen, picked(self._empty, [0] * len(rows)))


class StaticBatches:
    """The form for GPUs: all passes have the same shapes, so what else they paint does not change a bit.

    Prefixes are computed at full length and so many at a time; batches are to be full. A batch holds
    candidates of one prompt, whose text needs no mask; or, where a prompt has too few of them or the step is
    captured, those of several prompts under a mask.
    """

    def __init__(
        self, model: PrefixLM, settings: PaintSettings, kept: Kept, batch: int, candidates: int
    ) -> None:
        """`candidates` are the fewest of a prompt."""
        self._model, self._settings, self._kept = model, settings, kept
        self._empty = kept.empty if settings.guidance else None
        self._room = model.config.max_text_len + 1
        self._captured = kept.capture is not None and launches_dominate(model.config, batch)
        self._several = self._captured or batch > candidates
        together = -(-batch // candidates)
        self.prompts = together * max(1, STATIC_PROMPTS // together)

    def hold(self, texts: Sequence[Sequence[int]]) -> None:
        filled = [*texts, *[texts[-1]] * (self.prompts - len(texts))]
        self._prefixes = text_prefixes(self._model, filled, self._room)

    def together(self, todo: Sequence[Slot], batch: int) -> int:
        return sum(self._several or slot[0] == todo[0][0] for slot in todo[:batch])

    def painted(self, rows: Sequence[int], uniform: Tensor) -> Tensor:
        model, settings = self._model, self._settings
        text = picked(self._prefixes, rows, self._room) if self._several else picked(self._prefixes, rows[:1])
        canvas = StaticCanvas(model, len(rows), text, self._empty, masked=self._several)
        step: Step = partial(advance, canvas, settings.guidance)
        if self._captured:
            step = self._replayed(canvas, step, len(rows))
        # A replayed step overwrites what it gave.
        return _painted(model, settings, uniform, step).clone()

    def _replayed(self, canvas: StaticCanvas, step: Step, batch: int) -> Step:
        """The step as it was captured, now on these texts; captured anew for another shape."""
        kept, shape = self._kept, (batch, self._settings.guidance)
        if kept.step is not None and kept.step[0] == shape:
            for held, given in zip(kept.step[1].held(), canvas.held(), strict=True):
                held.copy_(given)
        else:
            assert kept.capture is not None
            kept.step = None
            codes_BN = all_hidden(self._model, batch)
            half, one = codes_BN.new_full((), 0.5, dtype=torch.float32), codes_BN.new_ones(())
            examples = codes_BN, half.expand(2, *codes_BN.shape), half, one
            kept.step = shape, canvas, Replayed(step, examples, kept.capture)
        return kept.step[2]


def all_hidden(model: PrefixLM, canvases: int) -> Tensor:
    """Codes [B, N] of canvases that are hidden all over."""
    return torch.full((canvases, model.config.num_image_tokens), -1, device=model.device)


def _painted(
    model: PrefixLM, settings: PaintSettings, uniform: Tensor, step: Step, first_RK: Tensor | None = None
) -> Tensor:
    """Codes [B, N] of one batch; `first_RK` are the logits of its first step."""
    device, steps, tokens = model.device, settings.steps, model.config.num_image_tokens
    uniform = uniform.to(device)
    heat = torch.tensor(temperatures(settings.temperature, steps), dtype=torch.float32, device=device)
    wanted = [wanted_hidden(tokens, number, steps, settings.schedule) for number in range(steps)]
    left = torch.stack(wanted).to(device)
    codes_BN = sampled_BN = all_hidden(model, uniform.shape[2])
    for number in range(steps):
        now = [codes_BN, uniform[number], heat[number], left[number]]
        if number == 0 and first_RK is not None:
            now.append(first_RK)
        sampled_BN, codes_BN = step(*now)
    return sampled_BN


def advance(
    canvas: Canvas,
    guidance: float,
    codes_BN: Tensor,
    uniform_2BN: Tensor,
    temperature: Tensor,
    wanted: Tensor,
    logits_RK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step: the sampled codes [B, N], and the same with -1 where they are hidden again."""
    unknown_BN = codes_BN < 0
    if logits_RK is None:
        logits_RK = canvas.logits(codes_BN, guidance)
    drawn_R, logp_R = draw(logits_RK, canvas.read(uniform_2BN[0], unknown_BN))
    sampled_BN = canvas.merged(codes_BN, unknown_BN, drawn_R)
    logp_BN = canvas.merged(torch.zeros_like(uniform_2BN[0]), unknown_BN, logp_R)
    left_B = at_most(unknown_BN.sum(-1), wanted)
    hidden_BN = hide_again(logp_BN, unknown_BN, gumbel(uniform_2BN[1]), temperature, left_B)
    return sampled_BN, sampled_BN.masked_fill(hidden_BN, -1)
