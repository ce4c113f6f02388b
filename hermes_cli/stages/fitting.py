"""Whether settings of sampling fit the model and this machine: known in a second, before an engine starts."""

from __future__ import annotations

from pathlib import Path

from curate.config import caption_plan
from engine.checkpoints.weights import load_config
from engine.errors import ConfigError
from engine.machine.plan import GIB, plan
from engine.machine.probe import Machine, read_machine
from engine.models.showo_config import ShowoConfig
from engine.tokenizers.text import TextTokenizer
from hermes_cli.settings import RunSettings
from hermes_cli.stages.processes import engine_needs, training_needs

CANDIDATE = 1 << 16
"""Bytes of a caption and an image that were sampled, with what their sampling held: an estimate."""


def require_fitting(settings: RunSettings, checkpoint: Path, ranks: int = 0) -> None:
    """Compares the settings with the model's sizes, and with the machine's cores, GPUs and memory; `ranks`
    processes are going to train, too.

    Raises:
        ConfigError: names the setting that does not fit, its value and what is there.
    """
    config, machine = load_config(checkpoint), read_machine()
    _fit_model(
        settings, config, len(TextTokenizer.load(checkpoint / "tokenizer.json").encode(config.caption_prompt))
    )
    _fit_machine(settings, config, machine)
    needs = engine_needs(settings.engine, checkpoint, "cuda" if machine.gpus else "cpu")
    plan(machine, needs, training_needs(settings, checkpoint, ranks) if ranks else None)


def _fit_model(settings: RunSettings, config: ShowoConfig, prompt: int) -> None:
    for name, image in (("curate.image", settings.curate.image), ("eval.image", settings.eval.image)):
        if image.steps > config.num_image_tokens:
            raise ConfigError(
                f"{name}.steps is {image.steps}; the model's images have {config.num_image_tokens} codes, "
                "and each step must settle one"
            )
    longest = max(one.max_tokens for one in caption_plan(settings.curate))
    room = config.max_position_embeddings - config.prefix_length - 1 - prompt
    if longest > room:
        name = "caption_plan" if settings.curate.caption_plan else "caption.max_tokens"
        raise ConfigError(
            f"curate.{name} asks for {longest} tokens; image and prompt leave {room} of the model's "
            f"{config.max_position_embeddings} positions"
        )


def _fit_machine(settings: RunSettings, config: ShowoConfig, machine: Machine) -> None:
    parts, heads = settings.engine.tensor_parallel, config.num_attention_heads
    there, what = (len(machine.gpus), "GPUs") if machine.gpus else (len(machine.cores), "cores")
    if parts > there:
        raise ConfigError(f"engine.tensor_parallel is {parts}, and there are {there} {what} here")
    if heads % parts:
        raise ConfigError(f"engine.tensor_parallel is {parts}; it must divide the model's {heads} heads")
    chunks = (
        ("curate.n", settings.curate.n, "curate.chunk", settings.curate.chunk),
        ("eval.images", settings.eval.images, "eval.chunk", settings.eval.chunk),
    )
    for name, each, chunk, items in chunks:
        if each * items * CANDIDATE > machine.memory // 2:
            raise ConfigError(
                f"{name} is {each}: with {chunk} {items}, about {each * items * CANDIDATE / GIB:.0f} GiB of "
                f"candidates would be in flight, and {machine.memory / GIB:.1f} GiB are free; lower either"
            )
