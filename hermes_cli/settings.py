"""All settings of a run: defaults, the run's own file, a recipe, a TOML file, `--set`, options, each over
the last. All of them are trees of tables, merged and then converted once."""

from __future__ import annotations

import os
import tomllib
from functools import reduce
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import inspect

from curate.config import CurateConfig
from curate.evaluation.config import EvalConfig
from curate.scoring.model_folders import default_similarity
from engine.errors import UNREADABLE, ConfigError
from engine.files.atomic import write_file
from engine.files.layout import resolve_model
from engine.records import CaptionSettings, Record
from hermes_cli.former import require_current
from hermes_cli.typed import kinds_of, problem
from train.config import TrainConfig

Tree = dict[str, Any]
Settings = TypeVar("Settings", bound=msgspec.Struct)


class EngineSettings(Record, forbid_unknown_fields=True):
    """How the engine serves."""

    dtype: Literal["float32", "bfloat16", "default", "auto"] = "default"
    """default: bfloat16 on a GPU, else float32; auto: bfloat16 also on CPUs that have it."""
    max_sequences: int = 256
    """Sequences in flight."""
    kv_cache_gib: float = 0.0
    """Memory for the sampler's keys and values; 0 plans it from the model's sizes."""
    tensor_parallel: int = 1
    """Processes that share every layer; it divides the attention heads."""
    sampler: Literal["auto", "branched", "paged"] = "auto"
    """What samples captions and free answers; auto is branched on a CPU, paged on a GPU. branched samples all
    continuations of one prefix together, on a CPU alone; paged is vLLM's scheduler. Their draws differ."""
    deterministic: bool = True
    """On a GPU, batch-invariant kernels: a curation resumes to the same bytes. A CPU is so anyway."""

    def __post_init__(self) -> None:
        for name in ("max_sequences", "tensor_parallel"):
            if getattr(self, name) < 1:
                raise ConfigError(f"engine: {name} is {getattr(self, name)}, it must be at least 1")
        if not 0 <= self.kv_cache_gib < float("inf"):
            raise ConfigError(
                f"engine: kv_cache_gib is {self.kv_cache_gib}, it must be zero or a positive number"
            )


ReferencePolicy = Literal["previous", "base"]


class ReferenceSettings(Record, forbid_unknown_fields=True):
    """The frozen model that the policy is compared with, and the pass that stores its log-probs."""

    policy: ReferencePolicy | tuple[ReferencePolicy, ...] = "previous"
    """previous: the weights that the round starts from (the paper's); base: the base model's. A list has
    one for each round, and its last holds on."""
    ranks: int = 1
    """Processes that share the pairs; each holds the model."""

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise ConfigError(f"reference: ranks is {self.ranks}, it must be at least 1")
        if not self.policy:
            raise ConfigError("reference: policy is an empty list; name previous or base, or one a round")

    def round_before(self, number: int) -> int:
        """The round whose weights are the reference of round `number`; 0 is the base model."""
        names = (self.policy,) if isinstance(self.policy, str) else self.policy
        return 0 if names[min(number, len(names)) - 1] == "base" else number - 1


class RunSettings(Record, forbid_unknown_fields=True):
    """Everything that decides a run."""

    model: str = ""
    """Folder of the base checkpoint; empty is the embedded model."""
    data: str = "shapes"
    """`shapes`, the path of a data set, or `kind:PATH` (docs/data.md)."""
    images: str = ""
    """Folder that image names start from; empty is the data set's own."""
    seed: int = 0
    """Seed of the items, where they are drawn, of every sample of curation, and of training."""
    engine: EngineSettings = EngineSettings()
    curate: CurateConfig = CurateConfig()
    reference: ReferenceSettings = ReferenceSettings()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"seed is {self.seed}; it must be at least 0 and below 2**63")

    @property
    def training(self) -> TrainConfig:
        """`train`, with the run's seed where it has none of its own."""
        if self.train.seed is not None:
            return self.train
        return msgspec.structs.replace(self.train, seed=self.seed)


def merge(base: Tree, over: Tree) -> Tree:
    """`over` laid on `base`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def parse_assignment(text: str, settings: type = RunSettings) -> Tree:
    """`train.steps=200` as a tree; what is no TOML, or is for a text setting, is a string.

    Raises:
        ConfigError: there is no `=`.
    """
    name, equals, raw = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise ConfigError(f"--set {text!r}: write it as key=value, for example --set train.steps=200")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    kinds = kinds_of(settings, name)
    if kinds and all(isinstance(kind, inspect.StrType) for kind in kinds) and not isinstance(value, str):
        value = raw
    return assign(name, value)


def assign(path: str, value: object) -> Tree:
    """A setting, such as `train.steps`, and its value as a tree."""
    *tables, leaf = path.split(".")
    tree: Tree = {leaf: value}
    for table in reversed(tables):
        tree = {table: tree}
    return tree


def read_toml(path: Path) -> Tree:
    """A configuration file.

    Raises:
        ConfigError: the file is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from error


def settle(tree: Tree, where: str = "settings") -> RunSettings:
    """The settings of a tree, which messages call `where`.

    Raises:
        ConfigError: a name is unknown, or a value is of the wrong type or out of range.
    """
    require_current(tree, where, "rename or remove them")
    return converted(tree, RunSettings, where)


def converted(tree: Tree, settings: type[Settings], where: str) -> Settings:
    """A tree as settings of a kind.

    Raises:
        ConfigError: names the setting and its value, and what it may be.
    """
    try:
        return msgspec.convert(tree, settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {problem(str(error), tree, settings)}") from error


def stored_tree(stored: Path) -> Tree:
    """A run's settings as its file has them; nothing where there is none.

    Raises:
        ConfigError: it cannot be read, or an earlier version wrote it.
    """
    try:
        tree = msgspec.json.decode(stored.read_bytes(), type=Tree) if stored.is_file() else {}
    except (OSError, *UNREADABLE) as error:
        raise ConfigError(f"{stored}: no settings of a run: {error}; mend it, or remove it") from error
    require_current(tree, str(stored), f"rename or remove them there, or {ANEW}")
    return tree


ANEW = "begin a new run in another folder"


def stored_settings(stored: Path) -> RunSettings:
    """A run's settings as its commands left them; defaults where there are none.

    Raises:
        ConfigError: they cannot be read, or are no settings of this version.
    """
    tree = stored_tree(stored)
    try:
        return settle(tree, str(stored))
    except ConfigError as error:
        named = str(error).removeprefix(f"{stored}: ")
        raise ConfigError(f"{stored}: {named}; mend it there, or {ANEW}") from error


def load_settings(stored: Path, *layers: Tree) -> RunSettings:
    """The run's own settings with all layers over them, in memory alone: a command keeps them with
    `store_settings` once its checks have passed. Paths that layers name are made absolute."""
    kept = stored_tree(stored)
    tree = merge(kept, _rooted(reduce(merge, layers, {}), kept))
    try:
        settings = settle(merge(_of_model(tree), tree))
    except ConfigError:
        # Where the file is at fault, the message names it.
        stored_settings(stored)
        raise
    if not settings.curate.similarity:
        # Scores of all rounds are compared: a model that appears later must not take over.
        curate = msgspec.structs.replace(settings.curate, similarity=default_similarity())
        settings = msgspec.structs.replace(settings, curate=curate)
    return settings


class _ModelConfig(Record):
    """What a model's config.json decides of a run's settings."""

    caption_tokens: int = CaptionSettings().max_tokens


def _of_model(tree: Tree) -> Tree:
    """Settings that the model of a tree brings; a model that cannot be read is refused later."""
    try:
        raw = (resolve_model(tree.get("model", "")) / "config.json").read_bytes()
        found = msgspec.json.decode(raw, type=_ModelConfig)
    except (OSError, TypeError, *UNREADABLE):
        return {}
    return {"curate": {"caption": {"max_tokens": found.caption_tokens}}}


def _rooted(given: Tree, kept: Tree) -> Tree:
    """Settings with absolute paths, so that a run goes on from any folder; what it has stays as it is."""
    rooted = dict(given)
    for name, value in given.items():
        was = kept.get(name)
        if isinstance(value, dict) and name == "curate":
            rooted[name] = _rooted(value, was if isinstance(was, dict) else {})
        elif isinstance(value, str) and name in PATHS and value != was and value not in NO_PATHS:
            rooted[name] = _absolute(value)
    return rooted


PATHS, NO_PATHS = ("model", "data", "images", "questions", "similarity"), ("", "shapes", "minilm", "mpnet")
"""Settings that are paths, also behind a prefix such as `parquet:`, and what else they may be."""


def _absolute(text: str) -> str:
    prefix, colon, rest = text.partition(":")
    for before, name in (("", text), (prefix + colon, rest)):
        if name and (path := Path(name).expanduser()).exists():
            return before + os.path.abspath(path)
    # What is nowhere is refused by the name that was typed.
    return text


def store_settings(stored: Path, settings: RunSettings) -> None:
    """Keeps a run's settings; a file that has them already is left alone."""
    content = msgspec.json.format(msgspec.json.encode(settings))
    if not stored.is_file() or stored.read_bytes() != content:
        write_file(stored, content)
