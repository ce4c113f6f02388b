"""What a command is going to run, planned for this machine and said in a line or two before it starts."""

from __future__ import annotations

import math
from pathlib import Path

from engine.kv_cache import least_gib, paged_head, planned_gib
from engine.machine import read_machine
from engine.machine_plan import GIB, EngineNeeds, Plan, TrainingNeeds, describe, plan
from engine.precision import serving_dtype
from engine.weights import WEIGHTS, load_config, tensor_layout
from hermes_cli.settings import RunSettings
from hermes_cli.view import say
from train.memory import activation_bytes, model_sizes, rank_memory


def plan_processes(
    settings: RunSettings, checkpoint: Path, samples: bool = False, trains: bool = False, ranks: int = 1
) -> Plan:
    """The plan of an engine, of a training by `ranks` processes, or of both in turns; says it.

    Raises:
        ConfigError: there is too little memory.
        CheckpointError: the checkpoint cannot be read.
    """
    found = plan(
        read_machine(),
        engine_needs(settings, checkpoint) if samples else None,
        training_needs(settings, checkpoint, ranks) if trains else None,
    )
    for line in describe(found):
        say(line)
    return found


def use_threads(found: Plan) -> None:
    """Gives this process the threads of its engine; vLLM keeps them, as several processes have their own."""
    import torch

    if len(found.engine) == 1:
        torch.set_num_threads(found.engine[0].threads)


def engine_needs(settings: RunSettings, checkpoint: Path) -> EngineNeeds:
    """What an engine on a checkpoint takes; reads no weights."""
    given, config = settings.engine, load_config(checkpoint)
    dtype, head, parts = serving_dtype(given.dtype), paged_head(config.head_dim), given.tensor_parallel
    wanted = given.kv_cache_gib or planned_gib(config, dtype, given.max_sequences, head, parts)
    least = given.kv_cache_gib or least_gib(config, dtype, head, parts)
    count = sum(math.prod(shape) for shape, _ in tensor_layout(checkpoint / WEIGHTS).values())
    return EngineNeeds(
        weights=count * (2 if dtype == "bfloat16" else 4),
        cache=int(wanted * GIB) * parts,
        least=int(least * GIB) * parts,
        processes=parts,
    )


def training_needs(settings: RunSettings, checkpoint: Path, ranks: int) -> TrainingNeeds:
    """What training from a checkpoint takes of the host's memory, or its reference pass if that is more."""
    config, sizes = settings.train, model_sizes(checkpoint, settings.train)
    share = rank_memory(sizes, config, ranks, config.offload != "none")
    offloaded = share.host if config.offload == "cpu" else 0
    if config.device_type == "cuda":
        return TrainingNeeds(memory=ranks * offloaded, ranks=ranks)
    each = share.device + offloaded + activation_bytes(load_config(checkpoint), config, ranks)
    reference = settings.reference.ranks * sizes.model * (2 if config.dtype == "bfloat16" else 4)
    return TrainingNeeds(memory=max(ranks * each, reference), ranks=ranks)
