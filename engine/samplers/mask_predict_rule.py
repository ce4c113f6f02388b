"""The pure arithmetic of one mask-predict step: no model, no generator, no state.

Source: Show-o's released `t2i_generate` (after MaskGIT, arXiv 2202.04200).
Legend: B images, N image tokens, R rows (masked positions of all images), K image codes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.errors import EngineError
from engine.ranges import POWER
from engine.samplers.token_rule import SMALLEST

SIGMOID_END = 3.0
"""The sigmoid schedule runs from minus this to this."""


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: (1 + w) * conditional - w * unconditional."""
    return (1 + guidance) * conditional - guidance * unconditional


def temperatures(start: float, steps: int) -> list[float]:
    """The noise temperature of every step: each step multiplies what is left by 1 - t/T.

    The official loop overwrites its own variable, so the products compound (0.875, 0.656, 0.410 for T = 8)
    and the last step has none.
    """
    found = []
    for step in range(steps):
        start *= 1 - (step + 1) / steps
        found.append(start)
    return found


def gumbel(uniform: Tensor) -> Tensor:
    """-log(-log(u)) with the official floors."""
    return -((-(uniform.clamp(min=SMALLEST).log())).clamp(min=SMALLEST).log())


def masked_share(schedule: str, ratio: Tensor) -> Tensor:
    """Share of the positions that stay masked when `ratio` of the steps are done, in float32 as officially.

    cosine: cos(pi/2 r), which ends at -4e-8; linear: 1 - r; powE: 1 - r^E; sigmoid: a sigmoid from -3 to 3
    scaled to run from 1 to 0. All but the first end at the official floor of 1e-6.

    Raises:
        EngineError: the schedule is not known.
    """
    if schedule == "cosine":
        return torch.cos(ratio * math.pi * 0.5)
    if schedule == "linear":
        share = 1 - ratio
    elif schedule == "sigmoid":
        ends = torch.sigmoid(torch.tensor([-SIGMOID_END, SIGMOID_END]))
        share = (ends[1] - torch.sigmoid(ratio * 2 * SIGMOID_END - SIGMOID_END)) / (ends[1] - ends[0])
    elif match := POWER.fullmatch(schedule):
        share = 1 - ratio ** float(match[1])
    else:
        raise EngineError(f"schedule {schedule!r} is not known; take cosine, linear, pow2 or sigmoid")
    return share.clamp(min=1e-6, max=1.0)


def check_schedule(schedule: str) -> None:
    """Whether `masked_share` knows it.

    Raises:
        EngineError: it does not.
    """
    masked_share(schedule, torch.tensor(0.5))


def wanted_masked(tokens: int, step: int, steps: int, schedule: str) -> Tensor:
    """How many positions the schedule would leave masked after the step: floor(N share), a number on the CPU.

    Raises:
        EngineError: the schedule is not known.
    """
    share = masked_share(schedule, torch.tensor((step + 1) / steps, dtype=torch.float32))
    return torch.floor(tokens * share).long()


def at_most(unknown_B: Tensor, wanted: Tensor) -> Tensor:
    """How many positions stay masked after a step: max(1, min(unknown - 1, `wanted_masked`)), [B]."""
    return torch.minimum(unknown_B - 1, wanted).clamp(min=1)


def mask_again(
    logp_BN: Tensor, unknown_BN: Tensor, gumbel_BN: Tensor, temperature: float | Tensor, left_B: Tensor
) -> Tensor:
    """Which positions are masked again, [B, N]: those less confident than the left-th smallest (0-based).

    Confidence is log p + temperature * gumbel. A position that was known before the step has the largest
    float32 for a probability, so it stays known.
    """
    known = math.log(torch.finfo(torch.float32).max)
    sure_BN = logp_BN.clamp(min=math.log(SMALLEST)).masked_fill(~unknown_BN, known) + temperature * gumbel_BN
    cutoff_B1 = sure_BN.sort(-1).values.gather(-1, left_B[:, None])
    return sure_BN < cutoff_B1
