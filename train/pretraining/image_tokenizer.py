"""Training of the embedded image tokenizer: reconstruction, commitment and an entropy bonus.

Legend: B batch, K bits, h w tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.records import Record
from engine.tokenizers.image import PatchLfq, PatchLfqConfig, to_pixels


class TokenizerTraining(Record, forbid_unknown_fields=True):
    """How the image tokenizer is trained."""

    steps: int = 4000
    batch: int = 64
    learning_rate: float = 2e-3
    commitment: float = 0.1
    balance: float = 0.05
    """Weight that keeps each bit's mean near 0, so that codes are used."""
    seed: int = 0


class TokenizerStep(Record):
    """Losses of one step."""

    step: int
    reconstruction: float
    codes_used: int


def quantise(z: Tensor) -> Tensor:
    """Signs in {-1, 1} with a straight-through gradient."""
    return z + (torch.where(z > 0, 1.0, -1.0) - z).detach()


def train_image_tokenizer(
    config: PatchLfqConfig,
    training: TokenizerTraining,
    images: Callable[[int, int], Tensor],
    report: Callable[[TokenizerStep], None],
) -> PatchLfq:
    """A trained tokenizer. `images(step, batch)` gives uint8 [B, H, W, 3]; `report` hears every 100 steps."""
    torch.manual_seed(training.seed)
    model = PatchLfq(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.steps, pct_start=0.05
    )
    for step in range(training.steps):
        pixels = to_pixels(images(step, training.batch))
        z = model.latent(pixels)
        reconstruction = F.l1_loss(out := model.reconstruct(quantise(z)), pixels) + F.mse_loss(out, pixels)
        commitment = F.mse_loss(z, z.detach().sign())
        balance = torch.tanh(z).mean((0, 2, 3)).square().mean()
        loss = reconstruction + training.commitment * commitment + training.balance * balance
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99 or step == training.steps - 1:
            used = model.encode(pixels).unique().numel()
            error = float(reconstruction.detach())
            report(TokenizerStep(step=step + 1, reconstruction=error, codes_used=used))
    return model.eval()
