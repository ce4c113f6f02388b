"""Starts and ends a vLLM instance the way Hermes needs it: in process, quiet, eager, prompts never cut."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from engine import vllm_sleep
from engine.devices import compute_device
from engine.errors import EngineError, HermesError
from engine.kv_cache import planned_gib
from engine.machine import usable_cores
from engine.machine_plan import dealt
from engine.models.showo_config import ShowoConfig

if TYPE_CHECKING:
    from vllm import LLM

ENVIRONMENT = {
    # One process: the worker extension shares our memory, and two cores have no room for a second one.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # At WARNING, each start prints a traceback about a chat template that a token-level engine lacks.
    "VLLM_LOGGING_LEVEL": "ERROR",
    # vLLM logs to stdout, which belongs to our commands.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Set before vLLM is imported; what the user has set already wins."""

BINDING = "VLLM_CPU_OMP_THREADS_BIND"
"""vLLM's variable for the cores of its processes."""

_started: list[LLM] = []
_ended: list[LLM] = []


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns any foreign exception into an EngineError that says what was being done."""
    try:
        yield
    except HermesError:
        raise
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"{what}: the GPU has too little free memory; lower engine.kv_cache_gib or engine.max_sequences, "
            "or end what else runs there (`nvidia-smi` shows it)"
        ) from error
    except Exception as error:
        raise EngineError(f"{what}: {type(error).__name__}: {error}") from error


def block_size(prefix: int) -> int:
    """The KV block size, a multiple of 32 for the CPU kernel: the largest that caches most of the prefix.

    Only whole blocks are cached: blocks of 128, vLLM's default, would never hold a prefix of 39 tokens.
    """
    reachable = prefix // 32 * 32
    return next((size for size in (128, 96, 64) if reachable and prefix // size * size == reachable), 32)


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


def launched(where: Path, build: Callable[[], LLM]) -> LLM:
    """The vLLM instance that `build` makes, in the environment that all of ours share; `stop` ends it.

    Raises:
        EngineError: vLLM is not installed, refused the model, or does not know it.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    set_num_threads = torch.set_num_threads
    with translated(f"{where}: vLLM could not start"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        # Said at WARNING before vLLM's own level is set: that a CPU has no Triton, which is as it should be.
        logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)
        try:
            llm = build()
        finally:
            # vLLM's CPU worker puts a stub here, for the whole process.
            torch.set_num_threads = set_num_threads
    _started.append(llm)
    return llm


def start(
    checkpoint: Path,
    config: ShowoConfig,
    dtype: str,
    max_sequences: int,
    kv_cache_gib: float,
    tensor_parallel: int = 1,
    transfer: str = "",
    deterministic: bool = False,
) -> LLM:
    """A vLLM instance that serves `checkpoint`; `transfer` is as in `engine.vllm_transport`.

    `deterministic` asks a GPU for kernels whose results do not depend on what else is in a batch; on a CPU
    it changes nothing.

    Raises:
        EngineError: vLLM is not installed, refused the model, or does not know it.
    """

    if deterministic and compute_device().type == "cuda":
        os.environ["VLLM_BATCH_INVARIANT"] = "1"

    def build() -> LLM:
        return _showo(checkpoint, config, dtype, max_sequences, kv_cache_gib, tensor_parallel, transfer)

    return launched(checkpoint, build)


def _showo(
    checkpoint: Path,
    config: ShowoConfig,
    dtype: str,
    max_sequences: int,
    kv_cache_gib: float,
    tensor_parallel: int,
    transfer: str,
) -> LLM:
    from vllm import LLM
    from vllm.platforms import current_platform

    from engine.vllm_model import paged_head_size
    from engine.vllm_plugin import register, registered
    from engine.vllm_transport import transfer_config

    if not current_platform.is_cpu():
        raise EngineError("the image prefix needs vLLM's CPU attention; install the `cpu` extra")
    register()
    if not registered():
        raise EngineError("vLLM lost the registration of Show-o; install the pinned vLLM version")
    head = paged_head_size(config.head_dim)
    room = kv_cache_gib or planned_gib(config, dtype, max_sequences, head, tensor_parallel)
    # By itself vLLM gives every process a NUMA node of its own, and refuses where there are too few.
    binds = tensor_parallel > 1 and BINDING not in os.environ
    if binds:
        os.environ[BINDING] = shared_cores(tensor_parallel)
    try:
        return LLM(
            str(checkpoint),
            dtype=cast(Any, dtype),
            enforce_eager=True,
            skip_tokenizer_init=True,
            generation_config="vllm",
            max_model_len=config.max_position_embeddings,
            max_num_seqs=max_sequences,
            max_num_batched_tokens=max(2048, config.max_position_embeddings),
            # A cut inside the bidirectional image prefix would change its attention.
            enable_chunked_prefill=False,
            enable_prefix_caching=True,
            block_size=block_size(config.prefix_length),
            enable_prompt_embeds=config.w_clip_vit,
            kv_cache_memory_bytes=int(room * 2**30),
            worker_extension_cls="engine.vllm_worker.HermesWorker",
            use_tqdm_on_load=False,
            tensor_parallel_size=tensor_parallel,
            weight_transfer_config=transfer_config(transfer),
            enable_sleep_mode=vllm_sleep.available(),
        )
    finally:
        if binds:
            del os.environ[BINDING]


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
