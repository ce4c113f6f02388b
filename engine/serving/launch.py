"""Starts and ends a vLLM instance the way Hermes needs it: in process, quiet, prompts never cut."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.checkpoints.weights import weight_bytes
from engine.devices import compute_device, enough_memory
from engine.errors import EngineError, HermesError
from engine.machine.plan import dealt
from engine.machine.probe import usable_cores
from engine.models.showo_config import ShowoConfig
from engine.serving import sleep
from engine.serving.arguments import BATCH_INVARIANT, Card, environment, showo_arguments

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.config import SchedulerConfig

BINDING = "VLLM_CPU_OMP_THREADS_BIND"
"""vLLM's variable for the cores of its processes."""

PINNED = ("NCCL_", "CUBLAS")
"""Beginnings of the variables with which vLLM's batch-invariant mode slows NCCL and cuBLAS down."""

_pinned: dict[str, str | None] = {}
_started: list[LLM] = []
_ended: list[LLM] = []


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns any foreign exception into an EngineError that says what was being done."""
    try:
        with enough_memory(what):
            yield
    except HermesError:
        raise
    except Exception as error:
        raise EngineError(f"{what}: {type(error).__name__}: {error}") from error


def shared_cores(processes: int) -> str:
    """The cores of this process, dealt out to so many others, as vLLM's VLLM_CPU_OMP_THREADS_BIND wants it.

    Raises:
        EngineError: there are fewer cores than processes.
    """
    cores = usable_cores()
    if len(cores) < processes:
        raise EngineError(f"tensor_parallel is {processes}, but there are only {len(cores)} cores")
    # One hardware thread of each core: a second one would compute no faster.
    return "|".join(",".join(str(core[0]) for core in part) for part in dealt(cores, processes))


def launched(
    where: Path,
    build: Callable[[Card | None], LLM],
    dtype: str,
    tensor_parallel: int = 1,
    deterministic: bool = False,
) -> LLM:
    """The vLLM instance that `build` makes, in the environment that all of ours share; `stop` ends it.

    `build` is given the GPU with the least room, None on a CPU. `deterministic` asks a GPU for kernels whose
    results do not depend on what else is in a batch; a CPU does as it does.

    Raises:
        EngineError: vLLM is not installed, is for another device, refused the model, or does not know it.
    """
    device = compute_device()
    wanted = environment(device.type, dtype, deterministic)
    if BATCH_INVARIANT in wanted:
        require_early(BATCH_INVARIANT)
        os.environ[BATCH_INVARIANT] = "1"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    set_num_threads, before = torch.set_num_threads, dict(os.environ)
    with translated(f"{where}: vLLM could not start"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        # Said at WARNING before vLLM's own level is set: that a CPU has no Triton, which is as it should be.
        logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)
        from vllm.platforms import current_platform

        if current_platform.device_type != device.type:
            raise EngineError(
                f"torch computes on {device.type}, and vLLM is built for"
                f" {current_platform.device_type or 'a device that is not there'}; run `make setup` again"
            )
        try:
            llm = build(_card(tensor_parallel) if device.type == "cuda" else None)
        finally:
            # vLLM's CPU worker puts a stub here, for the whole process.
            torch.set_num_threads = set_num_threads
            for name in filter(lambda name: name.startswith(PINNED), os.environ):
                if os.environ[name] != before.get(name):
                    _pinned.setdefault(name, before.get(name))
    _started.append(llm)
    return llm


def environment_for_children() -> dict[str, str]:
    """This process's environment, without what vLLM pinned in it for engines alone."""
    found = {**os.environ, **_pinned}
    return {name: value for name, value in found.items() if value is not None}


def require_early(variable: str) -> None:
    """Whether vLLM can still find a variable, which it reads when it is imported.

    Raises:
        EngineError: it was imported without.
    """
    if "vllm" in sys.modules and os.environ.get(variable) != "1":
        raise EngineError(
            f"vLLM runs in this process already, without {variable}=1; open the deterministic engine first,"
            " or in a process of its own"
        )


def _card(count: int) -> Card:
    """Of the first so many GPUs, the one with the least that is free."""
    if count > torch.cuda.device_count():
        raise EngineError(f"tensor_parallel is {count}, but there are only {torch.cuda.device_count()} GPUs")
    return min(Card(*torch.cuda.mem_get_info(index)) for index in range(count))


def start(
    checkpoint: Path,
    config: ShowoConfig,
    dtype: str,
    max_sequences: int,
    kv_cache_gib: float,
    tensor_parallel: int = 1,
    deterministic: bool = False,
) -> LLM:
    """A vLLM instance that serves `checkpoint`.

    Raises:
        EngineError: vLLM is not installed, refused the model, or does not know it, or a GPU is full.
    """

    def build(card: Card | None) -> LLM:
        from vllm import LLM

        from engine.serving.plugin import register, registered

        weights = weight_bytes(checkpoint, dtype)
        arguments = showo_arguments(
            config, dtype, max_sequences, kv_cache_gib, weights, tensor_parallel, card
        )
        register()
        if not registered():
            raise EngineError("vLLM lost the registration of Show-o; install the pinned vLLM version")
        # By itself vLLM gives every process a NUMA node of its own, and refuses where there are too few.
        cores = shared_cores(tensor_parallel) if tensor_parallel > 1 and card is None else ""
        binds = cores and BINDING not in os.environ
        if binds:
            os.environ[BINDING] = cores
        try:
            llm = LLM(str(checkpoint), enable_sleep_mode=sleep.available(), **arguments)
        finally:
            if binds:
                del os.environ[BINDING]
        require_whole_prompts(llm.llm_engine.vllm_config.scheduler_config)
        if card is not None:
            llm.collective_rpc("hermes_use_gpu")
        return llm

    return launched(checkpoint, build, dtype, tensor_parallel, deterministic)


def require_whole_prompts(scheduler: SchedulerConfig) -> None:
    """Whether vLLM computes every prompt in one piece, as its image prefix needs.

    Raises:
        EngineError: it would cut prompts.
    """
    if scheduler.enable_chunked_prefill or scheduler.long_prefill_token_threshold:
        raise EngineError(
            "vLLM turned chunked prefill on, which would cut image prefixes; install the pinned vLLM version"
        )


def stop(llm: LLM) -> None:
    """Ends an instance.

    vLLM's shutdown, which its garbage collection brings about as well, takes down the process group that all
    instances of a process share. So an instance that ends before the last one waits for it, memory included.
    """
    _ended.append(llm)
    if len(_ended) == len(_started):
        with translated("vLLM could not stop"):
            for one in _ended:
                one.llm_engine.engine_core.shutdown()
        _started.clear()
        _ended.clear()
