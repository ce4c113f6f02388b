"""What one training step reports, summed over the ranks.

Legend: P preferences of this rank.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from engine.records import Record
from train.losses.loss import BatchLoss, Dpo, Side


class SideMetrics(Record):
    """Means over the step's preferences that have this side."""

    pairs: int
    loss: float
    """-log sigmoid(margin), nats."""
    margin: float
    """beta times the log-ratio difference between winner and loser."""
    accuracy: float
    """Share of margins above 0."""
    win_gain: float
    """log p(winner) under the policy minus the reference's, nats; below 0 the winner became less likely. Like
    all of images, per hidden token under `image_normalise`."""
    lose_gain: float
    """The same of the loser."""
    kl: float
    """Estimate of KL(reference || policy), nats: mean of log p_ref - log p over winners and losers, which the
    reference sampled. Of one term a sample, so it may be negative; what it leaves out: docs/objectives.md."""


class TrainStep(Record):
    """One step, as written to the metrics file."""

    step: int
    """1-based."""
    loss: float
    """What was minimised: mean over the step's preferences, anchors included."""
    margin: float
    """Mean over all pairs of both sides; 0 where `pairs_every` left the step none."""
    accuracy: float
    captions: SideMetrics | None
    """None where the step held no caption pair."""
    images: SideMetrics | None
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    epoch: int
    """Number of complete passes over the usable preferences before this step's first."""
    skipped: int
    """Preferences of the file that lack the pairs which the objective needs; they are never drawn."""
    seconds: float
    real_caption_loss: float | None = None
    """Negative log-likelihood per token of the items' own captions, nats; None without that anchor."""
    real_image_loss: float | None = None
    """The same of their images."""
    tokens: int = 0
    """Tokens of the step's rows, padding left out: what the model read, over all ranks."""
    peak_memory_mib: float = 0.0
    """The most memory that rank 0 has held so far: of its device (CUDA), or altogether (CPU)."""


def timeless(step: TrainStep) -> TrainStep:
    """The step without what the machine decides: equal for equal runs, interrupted or not."""
    return msgspec.structs.replace(step, seconds=0.0, peak_memory_mib=0.0)


def scalars(step: TrainStep) -> dict[str, float]:
    """Every number of a step but its own, as `loss` or `captions/margin`."""
    found: dict[str, float] = {}
    for name, value in msgspec.to_builtins(step).items():
        if isinstance(value, dict):
            found |= {f"{name}/{inner}": float(number) for inner, number in value.items()}
        elif value is not None and name != "step":
            found[name] = float(value)
    return found


def tally(loss: BatchLoss, captions: Side, images: Side) -> Tensor:
    """Sums to be added over the ranks, float64 [16]: total and count, six numbers a side, two anchors."""
    count = loss.counted_P.sum()
    head = torch.stack((loss.total.detach() * count, count.to(loss.total.dtype))).double()
    real = (torch.where(loss.counted_P, one, 0.0).sum() for one in (loss.real_captions_P, loss.real_images_P))
    tail = torch.stack((*real,)).double()
    return torch.cat((head, _sums(loss.captions, captions), _sums(loss.images, images), tail))


def train_step(
    sums: Tensor,
    *,
    step: int,
    grad_norm: float,
    learning_rate: float,
    epoch: int,
    skipped: int,
    seconds: float,
    tokens: int,
    peak_memory_mib: float,
) -> TrainStep:
    """The record of a step from the ranks' summed tallies."""
    captions, images = _side(sums[2:8]), _side(sums[8:14])
    real_captions, real_images = ((value or None) for value in (sums[14:] / sums[1]).tolist())
    sides = [side for side in (captions, images) if side is not None]
    pairs = sum(side.pairs for side in sides)
    return TrainStep(
        step=step,
        loss=float(sums[0] / sums[1]),
        margin=sum(side.margin * side.pairs for side in sides) / max(1, pairs),
        accuracy=sum(side.accuracy * side.pairs for side in sides) / max(1, pairs),
        captions=captions,
        images=images,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
        epoch=epoch,
        skipped=skipped,
        seconds=seconds,
        real_caption_loss=real_captions,
        real_image_loss=real_images,
        tokens=tokens,
        peak_memory_mib=peak_memory_mib,
    )


def _sums(result: Dpo, side: Side) -> Tensor:
    rows = torch.stack(
        (
            torch.ones_like(result.loss_P),
            result.loss_P,
            result.margin_P,
            (result.margin_P > 0).to(result.loss_P.dtype),
            side.policy_win_P - side.reference_win_P,
            side.policy_lose_P - side.reference_lose_P,
        )
    )
    return torch.where(side.has_P, rows.detach(), 0.0).double().sum(1)


def _side(sums: Tensor) -> SideMetrics | None:
    pairs = int(sums[0])
    if not pairs:
        return None
    loss, margin, accuracy, win_gain, lose_gain = (sums[1:] / pairs).tolist()
    return SideMetrics(
        pairs=pairs,
        loss=loss,
        margin=margin,
        accuracy=accuracy,
        win_gain=win_gain,
        lose_gain=lose_gain,
        kl=-(win_gain + lose_gain) / 2,
    )
