"""How one round of Pair-DPO is run."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from engine.errors import ConfigError

Objective = Literal["sum", "product", "und", "gen"]
ImageVocabulary = Literal["full", "codes"]


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the Pair-DPO stage (HermesFlow, arXiv 2502.12148, section 3.3).

    Raises:
        ConfigError: a value is out of range, or two settings contradict each other.
    """

    objective: Objective = "sum"
    """`sum` adds a caption and an image DPO loss (the released code); `product` is the paper's Eq. 6, one
    sigmoid of the two margins' product; `und` is the caption loss alone, `gen` the image loss alone."""
    beta: float = 0.2
    """Scale of the policy-to-reference log-ratio, the strength of the pull towards the reference."""
    caption_weight: float = 1.0
    """Weight of the caption loss in `sum`."""
    image_weight: float = 1.0
    """Weight of the image loss in `sum`."""
    caption_anchor: float = 0.0
    """Weight of the preferred caption's negative log-likelihood per token, added to the loss."""
    image_anchor: float = 0.0
    """Weight of the preferred image's negative log-likelihood per masked token, added to the loss."""
    steps: int = 100
    """Optimizer steps; the paper trains for 3,000."""
    batch: int = 4
    """Preferences a step, over all ranks."""
    learning_rate: float = 2e-5
    """Peak of the schedule: linear warm-up, then a cosine to zero."""
    warmup: int = 10
    """Warm-up steps; fewer than `steps`, so that the cosine does start."""
    weight_decay: float = 0.01
    """On matrices only: never on LayerNorm, biases or embeddings."""
    clip: float = 1.0
    """Largest 2-norm of the whole gradient."""
    mask_draws: int = 4
    """K: image masks that each preference owns, each with its own reference log-probs."""
    masks_per_step: int = 1
    """How many of the K masks are averaged each time that a preference is visited; visits rotate."""
    seed: int = 0
    """Seed of the order of preferences and of the image masks."""
    save_every: int = 50
    """Steps between two resumable states."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model trains."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model; log-probs, losses and the optimizer stay in float32."""
    image_vocabulary: ImageVocabulary = "full"
    """Over which ids the softmax of a hidden code runs: the whole vocabulary, as in the official loss, or
    the image codes alone, as in painting. `codes` is another normaliser: log-probs and losses are not the
    official ones, and no gradient takes probability from text ids at image positions."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "mask_draws", "masks_per_step", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train: {name} is {getattr(self, name)}, it must be at least 1")
        for name in ("beta", "learning_rate", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"train: {name} is {value}, it must be a positive number")
        for name in ("weight_decay", "caption_weight", "image_weight", "caption_anchor", "image_anchor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"train: {name} is {value}, it must be zero or a positive number")
        self._check_relations()

    def _check_relations(self) -> None:
        if not 0 <= self.warmup < self.steps:
            raise ConfigError(
                f"train: warmup is {self.warmup}, it must be at least 0 and below steps, {self.steps}"
            )
        if self.masks_per_step > self.mask_draws:
            raise ConfigError(
                f"train: masks_per_step is {self.masks_per_step}, there are only {self.mask_draws} mask_draws"
            )
        if self.objective != "sum" and (self.caption_weight, self.image_weight) != (1.0, 1.0):
            raise ConfigError(
                f"train: caption_weight and image_weight apply to objective sum, this one is {self.objective}"
            )
        if self.objective == "sum" and self.caption_weight == self.image_weight == 0:
            raise ConfigError("train: caption_weight and image_weight are both 0, nothing would be learned")

    @property
    def uses_captions(self) -> bool:
        """Whether caption pairs enter the loss."""
        return self.objective != "gen" and self.caption_weight > 0

    @property
    def uses_images(self) -> bool:
        """Whether image pairs enter the loss."""
        return self.objective != "und" and self.image_weight > 0

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the 0-based step: linear warm-up, then a cosine that would reach 0 at `steps`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
