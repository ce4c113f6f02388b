"""`hermes train --dry-run`: what would be started, with which DeepSpeed settings and how much memory."""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from rich.table import Table

from engine.checkpoints.weights import load_config
from engine.machine.plan import GIB
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import RunSettings
from hermes_cli.stages.launcher import launcher_command
from hermes_cli.view import console, say
from train.config import TrainConfig
from train.distributed.deepspeed_config import deepspeed_config
from train.distributed.memory_estimate import (
    GpuMemory,
    RankMemory,
    Sizes,
    gpu_memory,
    model_sizes,
    rank_memory,
)


def show_plan(folder: RunFolder, settings: RunSettings, number: int, nodes: int, ranks: int) -> None:
    """Prints the plan of a round's training on `nodes` machines with `ranks` processes each.

    Raises:
        ConfigError: the batch cannot be shared out among them.
        CheckpointError: the round's starting weights cannot be read.
    """
    world, train = nodes * ranks, _planned(settings.training)
    train = train.for_width(load_config(folder.checkpoint(number - 1)).hidden_size)
    made: dict[str, Any] = deepspeed_config(train, world)
    sizes = model_sizes(folder.checkpoint(number - 1), train)
    arguments = ["--run", str(folder.root), "--round", str(number)]
    say(f"{train.steps} steps of {train.batch_size} at a learning rate of {train.learning_rate:.3g}")
    say("DeepSpeed configuration:")
    say(msgspec.json.format(msgspec.json.encode(made)).decode())
    say("\nCommands:")
    if world == 1:
        say("  hermes train " + " ".join(arguments))
    else:
        say("  hermes reference " + " ".join(arguments) + "   (once, on one node)")
        if nodes == 1:
            say("  hermes train " + " ".join(arguments) + f" --ranks {ranks}   (or)")
        say("  " + launcher_command(["train", *arguments], nodes, ranks))
    say("")
    console.print(_table(sizes, train, world))
    if train.device_type == "cuda":
        found = gpu_memory(load_config(folder.checkpoint(number - 1)), sizes, train, world)
        say(_on_gpu(found, train))
        say("arithmetic, not measured. Nothing was started.")
        return
    say("arithmetic, not measured; activations and communication buffers come on top. Nothing was started.")


def _planned(config: TrainConfig) -> TrainConfig:
    """The settings on the kind of device that torch is built for: plans are made where no GPU is, too."""
    device = "cuda" if torch.version.cuda else "cpu"
    return msgspec.structs.replace(config, device=device) if config.device == "auto" else config


def _on_gpu(found: GpuMemory, config: TrainConfig) -> str:
    kept = "blocks' inputs" if config.gradient_checkpointing else "all activations"
    return (
        f"each rank's GPU holds at most about {found.most / GIB:.1f} GiB: {found.state / GIB:.1f} of state, "
        f"{found.passes / GIB:.1f} of {kept} and log-probs (or {found.update / GIB:.1f} of an update), and "
        f"{found.bucket / GIB:.1f} of ZeRO's bucket; CUDA itself, and an engine asleep beside it, come on top"
    )


def _table(sizes: Sizes, config: TrainConfig, world: int) -> Table:
    title = (
        f"memory of each of {world} ranks, MiB: ZeRO stage {config.zero_stage}, {config.dtype}, "
        f"{sizes.trained:,} of {sizes.model:,} parameters trained"
    )
    table = Table(title=title, title_justify="left")
    columns = ("offload", "parameters", "gradients", "masters", "moments", "device", "host")
    for column in columns:
        table.add_column(column, justify="left" if column == "offload" else "right", no_wrap=True)
    for offloaded in (False, True) if config.zero_stage else (False,):
        share: RankMemory = rank_memory(sizes, config, world, offloaded)
        parts = (share.parameters, share.gradients, share.masters, share.moments, share.device, share.host)
        table.add_row("cpu" if offloaded else "none", *(f"{part / 2**20:,.1f}" for part in parts))
    return table
