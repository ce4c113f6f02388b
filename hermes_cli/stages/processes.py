"""What a command is going to run, planned for this machine and said in a line or two before it starts."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from engine.checkpoints.weights import load_config, weight_bytes
from engine.devices import compute_device
from engine.machine.kv_cache import (
    MOST,
    WORKSPACE,
    branched_gib,
    least_branched_gib,
    least_gib,
    paged_head,
    planned_gib,
)
from engine.machine.plan import GIB, EngineNeeds, Plan, TrainingNeeds, describe, plan
from engine.machine.precision import serving_dtype
from engine.machine.probe import read_machine
from engine.samplers.setting import sampler_for
from hermes_cli.settings import EngineSettings, RunSettings
from hermes_cli.view import say
from train.distributed.memory_estimate import activation_bytes, gpu_memory, model_sizes, rank_memory


def plan_processes(
    settings: RunSettings, checkpoint: Path, samples: bool = False, trains: bool = False, ranks: int = 1
) -> Plan:
    """The plan of an engine, of a training by `ranks` processes, or of both in turns; says it.

    Raises:
        ConfigError: there is too little memory.
        CheckpointError: the checkpoint cannot be read.
    """
    machine = read_machine()
    found = plan(
        machine,
        engine_needs(settings.engine, checkpoint, "cuda" if machine.gpus else "cpu") if samples else None,
        training_needs(settings, checkpoint, ranks) if trains else None,
    )
    for line in describe(found, _serving(settings.engine) if samples else ""):
        say(line)
    return found


def _serving(settings: EngineSettings) -> str:
    device = compute_device()
    card = "CPU" if device.type == "cpu" else torch.cuda.get_device_name()
    sampler = sampler_for(settings.sampler, device)
    return f"{serving_dtype(settings.dtype)} on {card}, {sampler} sampler"


def use_threads(found: Plan) -> None:
    """Gives this process the threads of its engine; vLLM keeps them, as several processes have their own."""
    if len(found.engine) == 1:
        torch.set_num_threads(found.engine[0].threads)


def cache_gib(settings: EngineSettings, found: Plan | None) -> float:
    """GiB of keys and values that each process of an engine is told to take; 0 leaves it to the engine.

    So it is on a GPU, which image tokenizer and CLIP have entered by then.
    """
    if found is None or not found.cut or found.gpu:
        return settings.kv_cache_gib
    return found.cache / GIB / settings.tensor_parallel


def engine_needs(given: EngineSettings, checkpoint: Path, device: str = "cpu") -> EngineNeeds:
    """What an engine on a checkpoint takes of a device; reads no weights.

    On a GPU it would like keys and values of all sequences in flight; the plan cuts them to what is free.
    """
    config = load_config(checkpoint)
    dtype, parts = serving_dtype(given.dtype), given.tensor_parallel
    head = paged_head(config.head_dim, device)
    most = MOST if device == "cpu" else math.inf
    paged = least_gib(config, dtype, head, parts)
    if sampler_for(given.sampler, torch.device(device)) == "branched":
        wanted = branched_gib(config, dtype, given.max_sequences, parts)
        least, probes = least_branched_gib(config, dtype, parts), paged
    else:
        wanted = planned_gib(config, dtype, given.max_sequences, head, parts, most)
        least, probes = paged, 0.0
    return EngineNeeds(
        weights=weight_bytes(checkpoint, dtype),
        cache=int((given.kv_cache_gib or wanted) * GIB) * parts,
        least=int((given.kv_cache_gib or least) * GIB) * parts,
        probes=int(probes * GIB) * parts,
        processes=parts,
        work=int(WORKSPACE * GIB),
    )


def training_needs(settings: RunSettings, checkpoint: Path, ranks: int) -> TrainingNeeds:
    """What training from a checkpoint takes, or its reference pass if that is more: of the host's memory, or
    of GPUs, which the processes of the reference pass share with the ranks."""
    config, sizes = settings.train, model_sizes(checkpoint, settings.train)
    share = rank_memory(sizes, config, ranks, config.offload != "none")
    frozen, scorers = sizes.model * (2 if config.dtype == "bfloat16" else 4), settings.reference.ranks
    if config.device_type == "cuda":
        trained = gpu_memory(load_config(checkpoint), sizes, config, ranks).most
        gpu = max(trained, -(-scorers // ranks) * frozen)
        return TrainingNeeds(memory=ranks * share.host, ranks=ranks, gpu=gpu)
    each = share.device + share.host + activation_bytes(load_config(checkpoint), config, ranks)
    return TrainingNeeds(memory=max(ranks * each, scorers * frozen), ranks=ranks)
