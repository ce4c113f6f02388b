"""Settings of one cell: what its `hermes run` is told, and digests of what decides its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec

from curate.config import CurateConfig
from curate.evaluation.config import EvalConfig
from curate.scoring.model_folders import default_similarity
from engine.errors import ConfigError
from engine.records import Record
from train.config import RENAMED, RUNTIME_FIELDS, TrainConfig

Tree = dict[str, Any]

RETIRED: Tree = {
    "caption_anchor": 0.0, "image_anchor": 0.0, "image_normalise": False, "image_vocabulary": "full",
    "joint_temperature": 1.0, "label_smoothing": 0.0, "least_hidden": 0.0,
}  # fmt: skip
"""Settings of training that are gone, at the values that every kept measurement had."""
CURATION_MEANS = frozenset(("chunk", "workers", "ray", "max_bad", "fresh_prompts"))
"""Settings of a curation that round 1 does not depend on."""
FIRST = frozenset(
    (
        *(
            "answer",
            "caption",
            "caption_margin",
            "caption_plan",
            "combine_questions",
            "image_margin",
            "judge",
        ),
        *("limit", "min_margin", "n", "paint", "questions", "rules", "select", "similarity", "threshold"),
        *("tie_break", "batch", "beta", "caption_weight", "clip", "device", "dtype", "image_weight"),
        *("learning_rate", "lora_alpha", "lora_rank", "lora_targets"),
        *("mask_draws", "masks_per_step", "most_visits", "objective", "pairs_every", "real_caption_anchor"),
        *("real_image_anchor", "save_every", "scale_rate", "schedule", "steps", "sum_steps", "text_dropout"),
        *("warmup", "weight_decay"),
    )
)
"""Settings of curation and training that there were when the first kept measurement was made. Later ones are
in a digest only where they are not at their default, so that a new setting leaves old measurements valid; it
must come with a default that changes nothing."""
SCORED_UNDER = ("num_masks", "seed", "text_dropout", "dtype")
"""Training's settings that reference log-probs depend on."""


class CellSettings(Record, forbid_unknown_fields=True):
    """The tables of `hermes run`'s --config that decide a cell."""

    model: str = ""
    data: str = "shapes"
    seed: int = 0
    engine: Tree = msgspec.field(default_factory=dict)
    """Checked by `hermes run` itself, as `reference` is."""
    curate: CurateConfig = CurateConfig()
    reference: Tree = msgspec.field(default_factory=dict)
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    def with_seed(self, seed: int) -> CellSettings:
        """The same with this seed of training; curation keeps the run's."""
        return msgspec.structs.replace(self, train=msgspec.structs.replace(self.train, seed=seed))

    @property
    def _sampler(self) -> Tree:
        """What every sample depends on."""
        return {
            "model": self.model,
            "data": self.data,
            "dtype": self.engine.get("dtype", "float32"),
            "similarity": self.curate.similarity,
        }

    @property
    def curation_basis(self) -> Tree:
        """What decides the pairs of round 1."""
        kept = _deciding(self.curate, CURATION_MEANS)
        # Where early settings had it: digests name folders, and must not move.
        kept["caption"]["sampler"] = "paged" if self.engine.get("sampler") == "paged" else "branched"
        return {**self._sampler, "seed": self.seed, "curate": kept}

    @property
    def reference_basis(self) -> Tree:
        """What decides the reference log-probs of round 1."""
        kept = {name: getattr(self.train, name) for name in SCORED_UNDER}
        return {"curation": self.curation_basis, "train": kept}

    @property
    def base_basis(self) -> Tree:
        """What decides a measurement of the base model."""
        return {**self._sampler, "eval": msgspec.to_builtins(self.eval)}

    @property
    def training_basis(self) -> Tree:
        """What decides the weights of every round, but for the seed of training."""
        kept = {**_deciding(self.train, RUNTIME_FIELDS | {"seed"}), **RETIRED}
        reference = {name: value for name, value in self.reference.items() if name != "ranks"}
        return {
            "curation": self.curation_basis,
            "fresh_prompts": self.curate.fresh_prompts,
            "train": kept,
            "reference": reference,
        }


def _deciding(config: CurateConfig | TrainConfig, means: frozenset[str]) -> Tree:
    """The settings that decide a result, as a tree."""
    plain, given = msgspec.to_builtins(type(config)()), msgspec.to_builtins(config)
    # Under the names that they had: digests name folders, and must not move.
    former = {new: old for old, new in RENAMED.items()} if isinstance(config, TrainConfig) else {}
    kept = {
        former.get(name, name): value
        for name, value in given.items()
        if name not in means and (former.get(name, name) in FIRST or value != plain[name])
    }
    if kept.get("device") == "auto":
        # Written as the first default was: the same measurement has the same digest on every machine.
        kept["device"] = "cpu"
    return kept


def merge(base: Tree, over: Tree) -> Tree:
    """`over` laid on `base`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def settle(tree: Tree, where: str) -> CellSettings:
    """The settings of a tree; `where` is what an error calls it.

    Raises:
        ConfigError: a name is unknown, or a value is of the wrong type or out of range.
    """
    try:
        found = msgspec.convert(tree, CellSettings)
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from error
    if not found.curate.similarity:
        curate = msgspec.structs.replace(found.curate, similarity=default_similarity())
        found = msgspec.structs.replace(found, curate=curate)
    return found


def digest(basis: object) -> str:
    """Twelve hex digits of a tree, whatever the order of its keys."""
    content = json.dumps(msgspec.to_builtins(basis), sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def as_toml(settings: CellSettings) -> bytes:
    """A file for --config that states every setting, so that nothing is left of an earlier one."""
    lines = (
        f"{name} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in _flat(msgspec.to_builtins(settings))
    )
    return ("\n".join(lines) + "\n").encode()


def _flat(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting; what is unset has no place in TOML."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value
