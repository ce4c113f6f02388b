"""All settings of a run: defaults, the run's own file, a recipe, a TOML file, `--set`, options, each over
the last. All of them are trees of tables, merged and then converted once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any, Literal

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
from train.config import TrainConfig

Tree = dict[str, Any]


class EngineSettings(Record, forbid_unknown_fields=True):
    """How the engine serves."""

    dtype: str = "default"
    """float32, bfloat16, default (bfloat16 on a GPU alone), or auto (also on CPUs that have it)."""
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
    """Seed of the items, where they are drawn, and of every sample of curation."""
    engine: EngineSettings = EngineSettings()
    curate: CurateConfig = CurateConfig()
    reference: ReferenceSettings = ReferenceSettings()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()


def merge(base: Tree, over: Tree) -> Tree:
    """`over` laid on `base`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def parse_assignment(text: str) -> Tree:
    """`train.steps=200` as a tree; a value that is no TOML is taken as a string.

    Raises:
        ConfigError: there is no `=`.
    """
    name, equals, raw = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text!r}: write it as key=value, for example --set train.steps=200")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    return assign(name.strip(), value)


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
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from error


def settle(tree: Tree) -> RunSettings:
    """The settings of a tree.

    Raises:
        ConfigError: a name is unknown, or a value is of the wrong type or out of range.
    """
    require_current(tree, "settings", "rename or remove them")
    try:
        return msgspec.convert(tree, RunSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings: {error}{_choices(str(error))}") from error


def _choices(message: str) -> str:
    """What a setting may be, where it has a few values alone and the message names its place."""
    kinds = [*_parts(inspect.type_info(RunSettings))]
    for name in re.findall(r"\.(\w+)", message.partition("$")[2]):
        fields = (field for kind in kinds if isinstance(kind, inspect.StructType) for field in kind.fields)
        kinds = [part for field in fields if field.encode_name == name for part in _parts(field.type)]
    literals = [kind for kind in kinds if isinstance(kind, inspect.LiteralType)]
    values = dict.fromkeys(str(value) for kind in literals for value in kind.values)
    return f"; it is one of {', '.join(values)}" if values else ""


def _parts(kind: inspect.Type) -> Iterator[inspect.Type]:
    """A type, or those of a union and of a sequence's elements."""
    if isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _parts(one)
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType):
        yield from _parts(kind.item_type)
    else:
        yield kind


def stored_tree(stored: Path) -> Tree:
    """A run's settings as its file has them; nothing where there is none.

    Raises:
        ConfigError: it cannot be read, or an earlier version wrote it.
    """
    try:
        tree = msgspec.json.decode(stored.read_bytes(), type=Tree) if stored.is_file() else {}
    except UNREADABLE as error:
        raise ConfigError(f"{stored}: {error}") from error
    require_current(tree, str(stored), "rename or remove them there, or begin a new run in another folder")
    return tree


def stored_settings(stored: Path) -> RunSettings:
    """A run's settings as its commands left them, for those who only look; defaults where there are none."""
    return settle(stored_tree(stored))


def load_settings(stored: Path, *layers: Tree, store: bool = True) -> RunSettings:
    """The run's own settings with all layers over them, kept for its next command unless told not to."""
    tree = reduce(merge, layers, stored_tree(stored))
    settings = settle(merge(_of_model(tree), tree))
    if not settings.curate.similarity:
        # Scores of all rounds are compared: a model that appears later must not take over.
        curate = msgspec.structs.replace(settings.curate, similarity=default_similarity())
        settings = msgspec.structs.replace(settings, curate=curate)
    if store:
        store_settings(stored, settings)
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


def store_settings(stored: Path, settings: RunSettings) -> None:
    """Keeps a run's settings."""
    write_file(stored, msgspec.json.format(msgspec.json.encode(settings)))
