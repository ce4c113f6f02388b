"""The choice of a token: temperature, cuts and the draw, as pure functions.

Legend: R rows, V vocabulary, K image codes or other choices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.errors import EngineError
from engine.records import CaptionSettings

GREEDY = 1e-5
"""Temperatures below it take the likeliest token, as vLLM does: a quotient would be no number."""
SMALLEST = 1e-20
"""The official code's floor under a probability and under a uniform draw before a logarithm."""


class TokenRules:
    """How each of R rows chooses its next token, under settings that `check_settings` let pass."""

    def __init__(self, settings: Sequence[CaptionSettings], device: torch.device | None = None) -> None:
        self._temperature = torch.tensor([one.temperature for one in settings], device=device)
        self._top_k = torch.tensor([one.top_k for one in settings], device=device)
        self._top_p = torch.tensor([one.top_p for one in settings], device=device)
        self._penalty = torch.tensor([one.repetition_penalty for one in settings], device=device)
        self.penalised = bool((self._penalty != 1).any())
        """Whether `held` matters."""

    def choose(self, logits_RV: Tensor, rows: Tensor, uniform_R: Tensor, held_RV: Tensor | None) -> Tensor:
        """Tokens [R] of some rows from float32 logits; `held_RV` says which tokens a row already holds.

        Order: repetition penalty, temperature, top-k, top-p, then one uniform number against the cumulative
        distribution. A temperature below GREEDY takes the likeliest token.
        """
        if held_RV is not None:
            penalty = self._penalty[rows, None]
            logits_RV = torch.where(
                held_RV, torch.where(logits_RV > 0, logits_RV / penalty, logits_RV * penalty), logits_RV
            )
        sampled = self._temperature[rows] >= GREEDY
        if sampled.all():
            return self._drawn(logits_RV, rows, uniform_R)
        best = logits_RV.argmax(-1)
        if sampled.any():
            best[sampled] = self._drawn(logits_RV[sampled], rows[sampled], uniform_R[sampled])
        return best

    def _drawn(self, logits_RV: Tensor, rows: Tensor, uniform_R: Tensor) -> Tensor:
        cut = _top_k(logits_RV / self._temperature[rows, None], self._top_k[rows])
        return draw(_top_p(cut, self._top_p[rows]), uniform_R)[0]


def uniforms(seed: int, count: int) -> Tensor:
    """The first `count` uniform numbers of a candidate, float32; more of them begin with the same."""
    numbers = np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32)
    return torch.from_numpy(numbers)


def check_settings(plan: Sequence[CaptionSettings]) -> None:
    """Whether all settings are in range.

    Raises:
        EngineError: names those of one entry that are not.
    """
    for one in plan:
        ranges = {
            "temperature": (one.temperature >= 0, "0 or more"),
            "top_k": (one.top_k >= 0, "0 (all) or more"),
            "top_p": (0 < one.top_p <= 1, "above 0 and at most 1"),
            "repetition_penalty": (one.repetition_penalty > 0, "above 0"),
            "max_tokens": (one.max_tokens >= 1, "at least 1"),
        }
        problems = [
            f"{name} is {getattr(one, name)}, it must be {range_}"
            for name, (fine, range_) in ranges.items()
            if not fine
        ]
        if problems:
            raise EngineError(f"caption settings: {'; '.join(problems)}")


def _top_k(logits_RV: Tensor, top_k_R: Tensor) -> Tensor:
    """Minus infinity below each row's k-th largest; 0 keeps all."""
    largest = min(int(top_k_R.max()), logits_RV.shape[-1])
    if largest == 0:
        return logits_RV
    kth = logits_RV.topk(largest).values.gather(-1, (top_k_R.clamp(1, largest) - 1)[:, None])
    return logits_RV.masked_fill((logits_RV < kth) & (top_k_R > 0)[:, None], -torch.inf)


def _top_p(logits_RV: Tensor, top_p_R: Tensor) -> Tensor:
    """Minus infinity for all tokens after those whose probabilities first add up to p."""
    rows = (top_p_R < 1).nonzero()[:, 0]
    if len(rows) == 0:
        return logits_RV
    ordered, places = logits_RV[rows].sort(-1, descending=True)
    probs = ordered.softmax(-1)
    beyond = probs.cumsum(-1) - probs >= top_p_R[rows, None]
    kept = ordered.masked_fill(beyond, -torch.inf)
    logits_RV = logits_RV.clone()
    logits_RV[rows] = torch.empty_like(kept).scatter_(-1, places, kept)
    return logits_RV


def draw(logits_RK: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
    """One choice a row by inverting the cumulative distribution, int64 [R], and its log-prob, float32 [R]."""
    # One uniform number a row instead of one a code: at 8,192 codes the noise would cost more than the
    # choice. Sums in float64, so that rare codes keep their share.
    probs_RK = _softmax(logits_RK.double())
    total_RK = probs_RK.cumsum(-1)
    place_R = uniform_R.double() * total_RK[:, -1]
    codes_R = torch.searchsorted(total_RK, place_R[:, None], right=True)[:, 0]
    codes_R = codes_R.clamp(max=logits_RK.shape[-1] - 1)
    return codes_R, probs_RK.gather(-1, codes_R[:, None])[:, 0].clamp(min=SMALLEST).log().float()


def _softmax(logits_RK: Tensor) -> Tensor:
    if logits_RK.device.type == "cpu":
        return logits_RK.softmax(-1)
    # vLLM's batch-invariant mode has a softmax of its own on GPUs, which does not compile for float64.
    odds_RK = (logits_RK - logits_RK.amax(-1, keepdim=True)).exp()
    return odds_RK / odds_RK.sum(-1, keepdim=True)
