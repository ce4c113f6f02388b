"""Pretraining of a small Show-o: masked image codes given text, and texts given images.

Legend: B images, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from engine.checkpoints.weights import load_model
from engine.files.tensors import save_tensors
from engine.models.masks import t2i_mask
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import Record
from train.data.batch import IGNORE
from train.pretraining.pretrain_batch import PretrainExample, mmu_rows, segment_mask, t2i_rows

MOMENTS = ("exp_avg", "exp_avg_sq")


class PretrainPhase(Record, forbid_unknown_fields=True):
    """A stretch of steps with one mixture of work and one learning-rate cosine."""

    steps: int
    images: int
    """Text-to-image rows a step."""
    texts: int
    """Images whose texts are learned a step; they are among the `images`."""
    learning_rate: float
    warmup: int
    span: int
    """Steps from the start of the phase to the end of its cosine, which the phase may leave early."""
    drill: int = 0
    """Further images, of the `images` that have any, whose drill alone is learned a step."""
    caption_noise: float = 0.0
    """Share of a caption's words, of those that have a neighbour, that an image's prompt has as it."""

    def rate(self, step: int) -> float:
        """Learning rate of a step of the phase: linear warm-up, then a cosine to a twentieth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.span - self.warmup))
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


class PretrainSettings(Record, forbid_unknown_fields=True):
    """How a model is pretrained from scratch."""

    phases: tuple[PretrainPhase, ...]
    weight_decay: float = 0.02
    drop_text: float = 0.1
    """Share of prompts replaced by the empty one, for classifier-free guidance."""
    seed: int = 0
    save_every: int = 100

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def place(self, step: int) -> tuple[PretrainPhase, int]:
        """The phase of a step, and the step's number inside it."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        raise ValueError("there are not so many steps")


class PretrainStep(Record):
    """Mean losses of the latest steps."""

    step: int
    image_loss: float
    text_loss: float


def label_loss(model: Showo, hidden: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy at the labelled positions; only those meet the head."""
    kept = labels != IGNORE
    return F.cross_entropy(model.head(hidden[kept]), labels[kept])


def step_losses(
    model: Showo,
    generated: Sequence[PretrainExample],
    told: Sequence[PretrainExample],
    drop_text: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(image loss of `generated`, text loss of `told`); the loss of no examples is zero."""
    words = model.config.vocabulary
    ids, positions, labels = t2i_rows(generated, words, model.config.max_text_len, drop_text, generator)
    hidden = model(ids, t2i_mask(ids, words.pad, words.soi, words.eoi), positions)
    image_loss = label_loss(model, hidden, labels)
    if not told:
        return image_loss, torch.zeros(())
    ids, positions, segments, labels = mmu_rows(told, words)
    hidden = model(ids, segment_mask(segments), positions)
    return image_loss, label_loss(model, hidden, labels)


def pretrain(
    config: ShowoConfig,
    settings: PretrainSettings,
    batches: Callable[[int], tuple[Sequence[PretrainExample], Sequence[PretrainExample]]],
    state: Path,
    report: Callable[[PretrainStep, Showo], None],
    start: Path | None = None,
) -> Showo:
    """A trained model, from scratch or from the weights of the checkpoint `start`.

    `batches(step)`, (generated, told), must be pure, so that a resumed run sees the same.

    `state` is a safetensors file, written beside and renamed every `save_every` steps; a run that finds
    one goes on from it, with the optimizer's moments.
    """
    if start is None:
        model = Showo(config)
        model.initialise(settings.seed)
    else:
        model = load_model(start)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    first = _resume(model, optimizer, state)
    sums = torch.zeros(2)
    for step in range(first, settings.steps):
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        image_loss, text_loss = step_losses(model, *batches(step), settings.drop_text, generator)
        phase, inside = settings.place(step)
        for group in optimizer.param_groups:
            group["lr"] = phase.rate(inside)
        optimizer.zero_grad(set_to_none=True)
        (image_loss + text_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        sums += torch.stack((image_loss, text_loss)).detach()
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            _save(model, optimizer, step + 1, state)
            count = (step % settings.save_every) + 1
            image, text = (sums / count).tolist()
            report(PretrainStep(step=step + 1, image_loss=image, text_loss=text), model)
            sums.zero_()
    return model


def _save(model: Showo, optimizer: torch.optim.AdamW, step: int, state: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, p in model.named_parameters():
        tensors[f"model.{name}"] = p.detach()
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[p][moment]
    save_tensors(tensors, state, {"step": str(step)})


def _resume(model: Showo, optimizer: torch.optim.AdamW, state: Path) -> int:
    if not state.is_file():
        return 0
    with safe_open(state, "pt") as stored, torch.no_grad():
        step = int(stored.metadata()["step"])
        for name, p in model.named_parameters():
            p.copy_(stored.get_tensor(f"model.{name}"))
            moments = {moment: stored.get_tensor(f"{moment}.{name}") for moment in MOMENTS}
            optimizer.state[p] = {"step": torch.tensor(float(step)), **moments}
    return step
