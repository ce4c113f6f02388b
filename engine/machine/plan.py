"""Which process gets which cores and how much memory, decided before anything starts. Pure arithmetic.

An engine and a training take turns: the engine sleeps while training runs, so each may use all cores. What
runs at the same time shares no core while there are enough. Models that judge or embed run in the process of
the engine and take turns with it, on the same threads.

On GPUs they take turns on the same ones: every process of an engine has one, and so has every rank. Awake, an
engine holds its weights there, twice while they are swapped, keys and values, and what it computes with.
Asleep, it holds none of these there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from msgspec.structs import replace

from engine.errors import ConfigError
from engine.machine.probe import Machine, list_text
from engine.records import Record

GIB = 2**30
PROCESS = 3 * GIB // 2
"""What the libraries and buffers of a process take, about: an engine and a rank of the embedded model hold
1.4 and 1.5 GiB, of which weights, keys and values and activations are little."""
GPU_PROCESS = 3 * GIB // 2
"""What a rank takes of its GPU beside what it trains, and an engine that sleeps there, whose graphs stay. An
estimate, not measured."""
Part = TypeVar("Part")


class EngineNeeds(Record):
    """One engine, in bytes over all of its processes."""

    weights: int
    cache: int
    """Keys and values that its sampler would like to have."""
    least: int
    """Fewer keys and values do not hold one sequence."""
    probes: int = 0
    """vLLM's keys and values beside the branched sampler's, for the probes after a swap."""
    processes: int = 1
    """Those that share every layer."""
    copies: int = 1
    """Engines at work at the same time."""
    work: int = 0
    """What each process takes of a GPU beside these; on a CPU that is PROCESS."""


class TrainingNeeds(Record):
    """One training, in bytes over all of its ranks."""

    memory: int
    """Weights, gradients, optimizer and activations; on GPUs what of them lies in the host's memory."""
    ranks: int = 1
    gpu: int = 0
    """What of them lies on each rank's GPU; 0 where it trains on CPUs."""


class Share(Record):
    """One process."""

    cores: tuple[int, ...]
    """Hardware threads that it may run on."""
    threads: int


class Plan(Record):
    """All processes; empty shares where there is no such process."""

    engine: tuple[Share, ...] = ()
    training: tuple[Share, ...] = ()
    cache: int = 0
    """Bytes of keys and values of each engine."""
    cut: bool = False
    """Whether that is less than it would like."""
    sleep: int = 0
    """Level of the engine's sleep while training runs; 0 where the two do not meet."""
    sampling_memory: int = 0
    training_memory: int = 0
    """Bytes of the host at the same time, sleeping engines included."""
    memory: int = 0
    """Bytes of the host that were free."""
    sampling_gpu: int = 0
    training_gpu: int = 0
    """Bytes of each GPU at the same time, sleeping engines included."""
    gpu: int = 0
    """Bytes that were free on the fullest of the GPUs in use."""


def dealt(cores: Sequence[Part], processes: int) -> list[tuple[Part, ...]]:
    """Equal runs of neighbouring cores; where there are fewer cores than processes, one each, in turn."""
    each = len(cores) // processes
    if not each:
        return [(cores[i % len(cores)],) for i in range(processes)]
    return [tuple(cores[i * each : (i + 1) * each]) for i in range(processes)]


def shares(machine: Machine, processes: int) -> tuple[Share, ...]:
    """What each of so many processes that run at the same time gets: one thread a physical core."""
    return tuple(
        Share(tuple(thread for core in part for thread in core), machine.threads or len(part))
        for part in dealt(machine.cores, processes)
    )


def plan(machine: Machine, engine: EngineNeeds | None, training: TrainingNeeds | None) -> Plan:
    """Engines that sample, then a training while they sleep, or one of the two.

    Raises:
        ConfigError: there is too little memory, or there are too few GPUs; says what is short by how much.
    """
    found = Plan(memory=machine.memory)
    asleep = deeper = 0
    if engine is not None:
        cache = _cache(machine, engine)
        own = engine.copies * engine.processes * PROCESS
        asleep, deeper = own + engine.copies * engine.weights, own
        found = replace(
            found,
            engine=shares(machine, engine.copies * engine.processes),
            cache=cache,
            cut=cache < engine.cache,
            sampling_memory=own if machine.gpus else engine.copies * (_fixed(machine, engine) + cache),
            sampling_gpu=(_fixed(machine, engine) + cache) // engine.processes if machine.gpus else 0,
            gpu=_free_gpu(machine, engine.processes),
        )
    if training is None:
        return found
    if training.gpu:
        found = _with_training_on_gpus(found, machine, training)
    meet = engine is not None and bool(training.gpu) == bool(machine.gpus)
    needed = training.ranks * PROCESS + training.memory
    if not meet:
        sleep, total = 0, needed + deeper
    elif needed + asleep <= machine.memory:
        sleep, total = 1, needed + asleep
    else:
        sleep, total = 2, needed + deeper
    if total > machine.memory:
        beside = " beside the sleeping engine" if engine is not None else ""
        raise ConfigError(
            f"training needs about {needed / GIB:.1f} GiB{beside}, and "
            f"{max(0, machine.memory - total + needed) / GIB:.1f} GiB are free; lower train.micro_batch_size "
            "or --ranks, or set train.gradient_checkpointing or train.lora_rank"
        )
    return replace(found, training=shares(machine, training.ranks), sleep=sleep, training_memory=total)


def _with_training_on_gpus(found: Plan, machine: Machine, training: TrainingNeeds) -> Plan:
    """The plan with what a training takes of each GPU, beside engines that sleep there."""
    if not machine.gpus:
        raise ConfigError(
            "train.device is cuda, and torch finds no GPU here; set train.device to cpu or auto"
        )
    if training.ranks > len(machine.gpus):
        raise ConfigError(
            f"training on GPUs needs one for each of its {training.ranks} ranks, and torch finds "
            f"{len(machine.gpus)}; lower --ranks"
        )
    free, needed = _free_gpu(machine, training.ranks), GPU_PROCESS + training.gpu
    beside = GPU_PROCESS if found.engine else 0
    if needed + beside > free:
        raise ConfigError(
            f"training needs about {needed / GIB:.1f} GiB of each GPU"
            f"{' beside the sleeping engine' if beside else ''}, and {max(0, free - beside) / GIB:.1f} GiB "
            "are free; lower train.micro_batch_size, set train.gradient_checkpointing, train.offload or "
            "train.lora_rank, "
            "or end what else runs there (`nvidia-smi` lists it)"
        )
    both = max(training.ranks, len(found.engine))
    return replace(found, training_gpu=needed + beside, gpu=_free_gpu(machine, both))


def _free_gpu(machine: Machine, processes: int) -> int:
    """What is free on each of the first so many GPUs; 0 where there are none."""
    return min(machine.gpus[:processes], default=0)


def _cache(machine: Machine, engine: EngineNeeds) -> int:
    """Bytes of keys and values of each engine, with room for a second set of weights during a swap.

    On GPUs both lie there, and each process of an engine has one; else in the memory that all share.
    """
    fixed = _fixed(machine, engine)
    if machine.gpus:
        if engine.copies * engine.processes > len(machine.gpus):
            raise ConfigError(
                f"engine.tensor_parallel {engine.processes} needs so many GPUs for an engine, and torch "
                f"finds {len(machine.gpus)} for {engine.copies}; lower it, or the number of engines"
            )
        free = engine.processes * _free_gpu(machine, engine.processes)
    else:
        free = machine.memory // engine.copies
    if free - fixed < engine.least:
        raise ConfigError(
            f"an engine needs at least {(fixed + engine.least) / GIB:.1f} GiB (weights, twice while they are "
            f"swapped: {2 * engine.weights / GIB:.1f}), and {max(0, free) / GIB:.1f} GiB are free for it"
            f"{' on its GPUs' if machine.gpus else ''}; "
            "lower engine.kv_cache_gib or the number of engines, or set engine.dtype to bfloat16"
            f"{', or end what else runs there (`nvidia-smi` lists it)' if machine.gpus else ''}"
        )
    return min(engine.cache, free - fixed)


def _fixed(machine: Machine, engine: EngineNeeds) -> int:
    """What an engine takes beside its sampler's keys and values, over all of its processes."""
    work = engine.processes * (engine.work if machine.gpus else PROCESS)
    return work + 2 * engine.weights + engine.probes


def describe(found: Plan, serving: str = "") -> list[str]:
    """A line for the engines, which `serving` says how to serve, one for the training, and one for GPUs."""
    lines = []
    if found.engine:
        lines.append(
            f"engine: {serving}{'; ' if serving else ''}{_shares(found.engine, 'process', 'processes')}, "
            f"KV cache {found.cache / GIB:.1f} GiB; about {found.sampling_memory / GIB:.1f} of "
            f"{found.memory / GIB:.1f} GiB"
        )
    if found.training:
        meanwhile = {0: "", 1: ", engine asleep meanwhile", 2: ", engine asleep without weights meanwhile"}
        lines.append(
            f"training: {_shares(found.training, 'rank', 'ranks')}{meanwhile[found.sleep]}; about "
            f"{found.training_memory / GIB:.1f} of {found.memory / GIB:.1f} GiB"
        )
    if found.gpu:
        takers = {"engine": found.sampling_gpu, "training": found.training_gpu}
        parts = [f"{name} about {size / GIB:.1f} GiB" for name, size in takers.items() if size]
        lines.append(f"memory of each GPU: {', '.join(parts)}, of {found.gpu / GIB:.1f} GiB that are free")
    return lines


def _shares(parts: Sequence[Share], one: str, more: str) -> str:
    threads = parts[0].threads
    cores = " and ".join(dict.fromkeys(list_text(part.cores) for part in parts))
    several = len({core for part in parts for core in part.cores}) > 1
    return (
        f"{len(parts)} {more if len(parts) > 1 else one} of {threads} thread{'s' if threads > 1 else ''} "
        f"on core{'s' if several else ''} {cores}"
    )
