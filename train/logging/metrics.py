"""What one training step reports, summed over passes and ranks.

Legend: P preferences of one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from engine.errors import UNREADABLE, DataError
from engine.files.seals import require_sealed
from engine.records import Record
from train.losses.loss import BatchLoss, PairLogps
from train.losses.objectives import preference_loss


class ModalityMetrics(Record):
    """Means over the step's preferences that have a pair of this modality."""

    pairs: int
    loss: float
    """-log sigmoid(margin), nats."""
    margin: float
    """beta times the log-ratio difference between winner and loser."""
    accuracy: float
    """Share of margins above 0."""
    win_gain: float
    """log p(winner) under the policy minus the reference's, nats; below 0 the winner became less likely."""
    lose_gain: float
    """The same of the loser."""
    kl: float
    """Estimate of KL(reference || policy), nats: mean of log p_ref - log p over winners and losers, which the
    reference sampled. Of one term a sample, so it may be negative; read it as drift."""


class TrainStep(Record):
    """One step, as written to the metrics file."""

    step: int
    """1-based."""
    loss: float
    """What was minimised: mean over the step's preferences, likelihoods of real pairs included."""
    margin: float
    """Mean over all pairs of both modalities; 0 where `dpo_every_n_epochs` left the step none."""
    accuracy: float
    captions: ModalityMetrics | None
    """None where the step held no caption pair."""
    images: ModalityMetrics | None
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    epoch: int
    """Number of complete passes over the usable preferences before this step's first."""
    skipped: int
    """Preferences of the file that lack the pairs which the objective needs; they are never drawn."""
    seconds: float
    real_caption_loss: float | None = None
    """Negative log-likelihood per token of the items' own captions, nats; None where it has no weight."""
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


def read_metrics(path: Path) -> list[TrainStep]:
    """The steps of a metrics file.

    Raises:
        DataError: the file is missing or not as it was sealed, or a line is no step; names file and line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; `hermes train` writes it")
    require_sealed(path, "remove it to do without its curves")
    steps = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            steps.append(msgspec.json.decode(line, type=TrainStep))
        except UNREADABLE as error:
            raise DataError(f"{path}, line {number}: not a training step: {error}") from error
    return steps


def pass_sums(loss: BatchLoss, captions: PairLogps, images: PairLogps, tokens: int) -> dict[str, Tensor]:
    """Sums over the preferences of one pass, float64 scalars by name."""
    count = loss.counted_P.sum()
    margins = loss.margins
    return {
        "tokens": torch.tensor(float(tokens), dtype=torch.float64),
        "counted": count.double(),
        "loss": (loss.total.detach() * count).double(),
        "real_captions": torch.where(loss.counted_P, loss.real_captions_P, 0.0).sum().double(),
        "real_images": torch.where(loss.counted_P, loss.real_images_P, 0.0).sum().double(),
        **_modality_sums("captions", captions, margins.captions_P.detach()),
        **_modality_sums("images", images, margins.images_P.detach()),
    }


def over_ranks(parts: Sequence[Mapping[str, Tensor]], total: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """The sums of all passes of all ranks. `total` adds a tensor over the ranks: they meet in one call."""
    mine = torch.stack([torch.stack([*part.values()]) for part in parts]).sum(0)
    return dict(zip(parts[0], total(mine).tolist(), strict=True))


def train_step(sums: Mapping[str, float], **others: Any) -> TrainStep:
    """The record of a step from `over_ranks`; `others` are the fields that these sums do not decide."""
    captions, images = _modality(sums, "captions"), _modality(sums, "images")
    present = [one for one in (captions, images) if one is not None]
    pairs = max(1, sum(one.pairs for one in present))
    return TrainStep(
        loss=sums["loss"] / sums["counted"],
        margin=sum(one.margin * one.pairs for one in present) / pairs,
        accuracy=sum(one.accuracy * one.pairs for one in present) / pairs,
        captions=captions,
        images=images,
        real_caption_loss=sums["real_captions"] / sums["counted"] or None,
        real_image_loss=sums["real_images"] / sums["counted"] or None,
        tokens=int(sums["tokens"]),
        **others,
    )


def _modality_sums(name: str, logps: PairLogps, margin_P: Tensor) -> dict[str, Tensor]:
    values = {
        "pairs": torch.ones_like(margin_P),
        "loss": preference_loss(margin_P),
        "margin": margin_P,
        "accuracy": (margin_P > 0).to(margin_P.dtype),
        "win_gain": (logps.policy_win_P - logps.reference_win_P).detach(),
        "lose_gain": (logps.policy_lose_P - logps.reference_lose_P).detach(),
    }
    return {
        f"{name}/{field}": torch.where(logps.has_P, value_P, 0.0).double().sum()
        for field, value_P in values.items()
    }


def _modality(sums: Mapping[str, float], name: str) -> ModalityMetrics | None:
    pairs = int(sums[f"{name}/pairs"])
    if not pairs:
        return None
    fields = ("loss", "margin", "accuracy", "win_gain", "lose_gain")
    means = {field: sums[f"{name}/{field}"] / pairs for field in fields}
    return ModalityMetrics(pairs=pairs, **means, kl=-(means["win_gain"] + means["lose_gain"]) / 2)
