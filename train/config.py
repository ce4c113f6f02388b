"""How one round of Pair-DPO is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from engine.errors import ConfigError

Objective = Literal["sum", "product", "softmin", "und", "gen"]

JOINT = ("product", "softmin")
"""Objectives that join both margins in one sigmoid, and may follow steps of `sum`."""
METRICS = "metrics.jsonl"
"""File in `<out>.training`: a `TrainStep` a line."""
RENDEZVOUS = "HERMES_RENDEZVOUS"
"""Environment variable: file through which the ranks of one machine find each other, without a port."""
Tracker = Literal["tensorboard", "wandb", "trackio"]
LINEARS = ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")
"""The linear layers of a Phi block, under their names in `engine.models.showo`: what LoRA can adapt."""
SCALED_FROM = 2048
"""Width of the model whose learning rate `mup_lr` scales: the paper's."""
RUNTIME_FIELDS = frozenset(
    ("micro_batch_size", "gradient_checkpointing", "zero_stage", "offload", "keep", "trackers")
)
"""Settings that say how a run is carried out, not what it learns: a resumed run may change them."""

_LIMITS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "at least 1": (
        lambda v: v >= 1,
        "steps batch_size dpo_every_n_epochs num_masks masks_per_step save_every keep",
    ),
    "a positive number": (lambda v: 0 < v < math.inf, "beta learning_rate max_grad_norm lora_alpha"),
    "zero or a positive number": (
        lambda v: 0 <= v < math.inf,
        "weight_decay caption_weight image_weight max_epochs caption_sft_weight image_sft_weight",
    ),
    "at least 0 and below 1": (lambda v: 0 <= v < 1, "text_dropout"),
    "above 0 and at most 1": (lambda v: 0 < v <= 1, "weight_averaging"),
    "at least 0; 0 is off": (lambda v: v >= 0, "lora_rank"),
}
"""What a number must be -> the test, and the settings that it holds for."""


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the Pair-DPO stage (HermesFlow, arXiv 2502.12148, section 3.3).

    Raises:
        ConfigError: a value is out of range, or two settings contradict each other.
    """

    objective: Objective = "sum"
    """How the margins of both sides become a loss. `sum`: a caption and an image DPO
    loss (the released code); `product`: one sigmoid of their product (Eq. 6); `softmin`: one sigmoid of their
    soft minimum; `und`, `gen`: the caption or the image loss alone."""
    sum_steps: int = 0
    """Steps of `sum` before a joint objective (product, softmin)."""
    beta: float = 0.2
    """Scale of the policy-to-reference log-ratio: the pull towards the reference."""
    caption_weight: float = 1.0
    """Weight of the caption loss in `sum`, `sum_steps` and `und`."""
    image_weight: float = 1.0
    """Weight of the image loss in `sum`, `sum_steps` and `gen`."""
    caption_sft_weight: float = 0.0
    """Weight of supervised fine-tuning on the item's caption, per token. It needs no candidate, so `und` and
    `gen` have it too."""
    image_sft_weight: float = 0.0
    """Weight of supervised fine-tuning on the item's image, per masked token. Its masks are its own."""
    steps: int = 100
    """Optimizer steps; the paper trains for 3,000."""
    max_epochs: float = 0.0
    """Ends training early, after so many passes over the pairs; 0 is off."""
    batch_size: int = 4
    """Preferences a step, over all ranks."""
    micro_batch_size: int = 0
    """Preferences of one pass on each rank; 0 is its whole share. Only the order of sums depends on it."""
    learning_rate: float = 2e-5
    """Peak of the schedule."""
    mup_lr: bool = False
    """Multiplies learning_rate by 2,048 / width (muP, arXiv 2203.03466)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the linear warm-up: a cosine to zero, or the peak."""
    warmup: int | None = None
    """Warm-up steps; unset, a tenth of `steps` and at most 10."""
    weight_decay: float = 0.01
    """On matrices only: never on LayerNorm, biases or embeddings."""
    max_grad_norm: float = 1.0
    """Gradient clipping: largest 2-norm of the whole gradient."""
    dpo_every_n_epochs: int = 1
    """Pairs are trained on in one epoch of so many, and count so many times as much. In the other epochs an
    item brings its real image and caption alone; where one of them is missing, it always brings its pairs."""
    num_masks: int = 4
    """K: image masks of each preference, each with its own reference log-probs."""
    masks_per_step: int = 1
    """How many of the K masks a step averages; they rotate."""
    text_dropout: float = 0.0
    """Share of masks under which an image is scored without its caption. Winner, loser, policy and reference
    share the choice."""
    weight_averaging: float = 1.0
    """Published weights: start + this share of the change (WiSE-FT, arXiv 2109.01903)."""
    seed: int = 0
    """Seed of the order of preferences and of the image masks."""
    save_every: int = 50
    """Steps between two resumable states."""
    keep: int = 1
    """How many of the latest states are kept."""
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    """Where metrics go besides metrics.jsonl. wandb and trackio must be installed."""
    lora_rank: int = 0
    """Rank of LoRA adapters, trained alone and merged into the checkpoint; 0 trains all."""
    lora_alpha: float = 16.0
    """Scale of the adapters: their product times lora_alpha / lora_rank."""
    lora_targets: tuple[str, ...] = LINEARS
    """Linear layers of every block that are adapted."""
    gradient_checkpointing: bool = False
    """Keeps each block's input alone and computes the rest again in the backward pass."""
    zero_stage: Literal[0, 1, 2, 3] = 3
    """What ranks share: 1 optimizer state, 2 also gradients, 3 also parameters."""
    offload: Literal["none", "cpu"] = "none"
    """Where the optimizer's state lies: on the device, or in the host's memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model trains; auto prefers the GPU."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model; log-probs, losses and the optimizer stay in float32."""

    def __post_init__(self) -> None:
        self._check_values()
        self._check_relations()
        self._check_objective()
        self._check_sharding()

    def _check_values(self) -> None:
        for limit, (holds, names) in _LIMITS.items():
            for name in names.split():
                value = getattr(self, name)
                if not holds(value):
                    raise ConfigError(f"train: {name} is {value}, it must be {limit}")
        unknown = [name for name in self.lora_targets if name not in LINEARS]
        if unknown or not self.lora_targets:
            raise ConfigError(
                f"train: lora_targets is {list(self.lora_targets)}, it must name some of {', '.join(LINEARS)}"
            )

    def _check_relations(self) -> None:
        if not 0 <= self.warmup_steps < self.steps:
            raise ConfigError(
                f"train: warmup is {self.warmup}, it must be at least 0 and below steps, {self.steps}"
            )
        if self.masks_per_step > self.num_masks:
            raise ConfigError(
                f"train: masks_per_step is {self.masks_per_step}, there are only {self.num_masks} num_masks"
            )
        if self.dpo_every_n_epochs > 1 and not self.caption_sft_weight + self.image_sft_weight:
            raise ConfigError(
                f"train: dpo_every_n_epochs is {self.dpo_every_n_epochs}, but epochs without pairs have "
                "nothing to bring; set caption_sft_weight or image_sft_weight"
            )

    def _check_objective(self) -> None:
        """Settings of one objective are refused beside another, weights of the losses excepted: a recipe may
        bring them for an objective that it does not know."""
        for name in ("caption_weight", "image_weight"):
            if self.objective != "sum" and getattr(self, name) == 0:
                raise ConfigError(
                    f"train: {name} is 0, which objective sum alone may have; this one is {self.objective}: "
                    "leave it at 1, or choose und or gen to train one side"
                )
        if self.objective == "sum" and self.caption_weight == self.image_weight == 0:
            raise ConfigError("train: caption_weight and image_weight are both 0, nothing would be learned")
        if not 0 <= self.sum_steps < self.steps:
            raise ConfigError(
                f"train: sum_steps is {self.sum_steps}, it must be at least 0 and below steps, {self.steps}"
            )
        if self.sum_steps and self.objective not in JOINT:
            raise ConfigError(
                f"train: sum_steps come before {', '.join(JOINT)}; this objective is {self.objective}"
            )

    def _check_sharding(self) -> None:
        micro, whole = self.micro_batch_size, self.batch_size
        if not 0 <= micro <= whole or (micro and whole % micro):
            raise ConfigError(
                f"train: micro_batch_size is {micro}, it must be 0 or divide batch_size, {whole}"
            )
        if self.zero_stage == 0 and self.dtype == "bfloat16":
            raise ConfigError(
                "train: dtype bfloat16 at zero_stage 0 would accumulate gradients in bfloat16; "
                "use zero_stage 1 to 3, also on one rank"
            )
        if self.offload == "cpu" and self.zero_stage == 0:
            raise ConfigError("train: offload cpu needs zero_stage 1 or more, it is 0")

    @property
    def device_type(self) -> str:
        """`device` on this machine: cpu or cuda.

        Raises:
            EngineError: it is auto, and torch is built for a GPU that it does not find.
        """
        if self.device != "auto":
            return self.device
        # Imports torch, which commands that only read settings can do without.
        from engine.devices import compute_device

        return compute_device().type

    @property
    def warmup_steps(self) -> int:
        """Warm-up steps, given or derived from `steps`."""
        return min(10, self.steps // 10) if self.warmup is None else self.warmup

    @property
    def uses_captions(self) -> bool:
        """Whether caption pairs enter the loss."""
        return self.objective != "gen" and self.caption_weight > 0

    @property
    def uses_images(self) -> bool:
        """Whether image pairs enter the loss."""
        return self.objective != "und" and self.image_weight > 0

    @property
    def rows_of_sample(self) -> tuple[int, int]:
        """(caption rows, image rows) of a preference that has both pairs, each time that it brings
        them."""
        captions = 2 * self.uses_captions + (self.caption_sft_weight > 0)
        images = self.masks_per_step * (2 * self.uses_images + (self.image_sft_weight > 0))
        return captions, images

    @property
    def needs_both(self) -> bool:
        """Whether a preference with one side is of no use."""
        return self.objective == "product"

    def for_width(self, width: int) -> TrainConfig:
        """The same for a model whose hidden states are so wide, its learning rate no longer to be scaled."""
        if not self.mup_lr:
            return self
        rate = self.learning_rate * SCALED_FROM / width
        return msgspec.structs.replace(self, learning_rate=rate, mup_lr=False)

    def for_preferences(self, count: int) -> TrainConfig:
        """The same for so many preferences that the objective can learn from, its steps no longer bounded.

        Raises:
            ConfigError: `warmup` or `sum_steps` do not fit into the steps that are left.
        """
        if not self.max_epochs:
            return self
        steps = min(self.steps, max(1, math.ceil(self.max_epochs * count / self.batch_size)))
        try:
            return msgspec.structs.replace(self, steps=steps, max_epochs=0.0)
        except ConfigError as error:
            raise ConfigError(
                f"{error} (max_epochs {self.max_epochs:g} leaves so many for {count} preferences)"
            ) from error

    def objective_at(self, step: int) -> Objective:
        """Objective of the 0-based step."""
        return "sum" if step < self.sum_steps else self.objective

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the 0-based step; a cosine would reach 0 at `steps`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
