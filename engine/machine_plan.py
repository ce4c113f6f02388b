"""Which process gets which cores and how much memory, decided before anything starts. Pure arithmetic.

An engine and a training take turns: the engine sleeps while training runs, so each may use all cores. What
runs at the same time shares no core while there are enough. Models that judge or embed run in the process of
the engine and take turns with it, on the same threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from engine.errors import ConfigError
from engine.machine import Machine, list_text
from engine.records import Record

GIB = 2**30
PROCESS = 3 * GIB // 2
"""What the libraries and buffers of a process take, about: an engine and a rank of the embedded model hold
1.4 and 1.5 GiB, of which weights, keys and values and activations are little."""
Part = TypeVar("Part")


class EngineNeeds(Record):
    """One engine, in bytes over all of its processes."""

    weights: int
    cache: int
    """Keys and values that it would like to have."""
    least: int
    """Fewer keys and values do not hold one sequence."""
    processes: int = 1
    """Those that share every layer."""
    copies: int = 1
    """Engines at work at the same time."""


class TrainingNeeds(Record):
    """One training, in bytes over all of its ranks."""

    memory: int
    """Weights, gradients, optimizer and activations; on GPUs what of them lies in the host's memory."""
    ranks: int = 1


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
        ConfigError: there is too little memory; says what is short by how much.
    """
    found = Plan(memory=machine.memory)
    asleep = deeper = 0
    if engine is not None:
        cache = _cache(machine, engine)
        own = engine.copies * engine.processes * PROCESS
        asleep, deeper = own + engine.copies * engine.weights, own
        found = Plan(
            memory=machine.memory,
            engine=shares(machine, engine.copies * engine.processes),
            cache=cache,
            cut=cache < engine.cache,
            sampling_memory=own + (0 if machine.gpus else engine.copies * (2 * engine.weights + cache)),
        )
    if training is None:
        return found
    needed = training.ranks * PROCESS + training.memory
    sleep, total = (1, needed + asleep) if needed + asleep <= machine.memory else (2, needed + deeper)
    if total > machine.memory:
        beside = " beside the sleeping engine" if engine is not None else ""
        raise ConfigError(
            f"training needs about {needed / GIB:.1f} GiB{beside}, and "
            f"{max(0, machine.memory - total + needed) / GIB:.1f} GiB are free; lower train.micro_batch or "
            "--ranks, or set train.checkpointing or train.lora_rank"
        )
    return Plan(
        memory=machine.memory,
        engine=found.engine,
        cache=found.cache,
        cut=found.cut,
        sampling_memory=found.sampling_memory,
        training=shares(machine, training.ranks),
        sleep=sleep if engine is not None else 0,
        training_memory=total,
    )


def _cache(machine: Machine, engine: EngineNeeds) -> int:
    """Bytes of keys and values of each engine, with room for a second set of weights during a swap.

    On GPUs both lie there, and each process of an engine has one; else in the memory that all share.
    """
    fixed = 2 * engine.weights
    if machine.gpus:
        free = sum(machine.gpus[: engine.processes])
    else:
        fixed += engine.processes * PROCESS
        free = machine.memory // engine.copies
    if free - fixed < engine.least:
        raise ConfigError(
            f"an engine needs at least {(fixed + engine.least) / GIB:.1f} GiB (weights, twice while they are "
            f"swapped: {2 * engine.weights / GIB:.1f}), and {max(0, free) / GIB:.1f} GiB are free for it; "
            "lower engine.kv_cache_gib or the number of engines, or set engine.dtype to bfloat16"
        )
    return min(engine.cache, free - fixed)


def describe(found: Plan) -> list[str]:
    """A line for the engines and one for the training."""
    lines = []
    if found.engine:
        lines.append(
            f"engine: {_shares(found.engine, 'process')}, KV cache {found.cache / GIB:.1f} GiB; about "
            f"{found.sampling_memory / GIB:.1f} of {found.memory / GIB:.1f} GiB"
        )
    if found.training:
        meanwhile = {0: "", 1: ", engine asleep meanwhile", 2: ", engine asleep without weights meanwhile"}
        lines.append(
            f"training: {_shares(found.training, 'rank')}{meanwhile[found.sleep]}; about "
            f"{found.training_memory / GIB:.1f} of {found.memory / GIB:.1f} GiB"
        )
    return lines


def _shares(parts: Sequence[Share], name: str) -> str:
    threads = parts[0].threads
    cores = " and ".join(dict.fromkeys(list_text(part.cores) for part in parts))
    several = len({core for part in parts for core in part.cores}) > 1
    return (
        f"{len(parts)} {name}{'s' if len(parts) > 1 else ''} of {threads} thread{'s' if threads > 1 else ''} "
        f"on core{'s' if several else ''} {cores}"
    )
