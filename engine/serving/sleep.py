"""An engine's memory while another process needs it: given back, and taken up again without a restart.

On a GPU this is vLLM's sleep mode: its pool gives memory back and keeps the addresses, so captured graphs
stay valid. It has not been run on one yet. vLLM has no such mode on a CPU; there the pages of keys and values
are handed to the system, which gives fresh ones when they are written again, and weights are dropped and
loaded anew.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from engine.errors import EngineError

if TYPE_CHECKING:
    from vllm import LLM

CACHES, WEIGHTS = 1, 2
LEVELS = (CACHES, WEIGHTS)
"""Keys and values alone, and the weights too. On a GPU level 1 moves the weights to the host's memory."""


def available() -> bool:
    """Whether an engine that starts now gets vLLM's sleep mode: its allocator takes one engine of a process,
    and only a vLLM that is compiled for GPUs has one."""
    from vllm.device_allocator.cumem import CuMemAllocator, cumem_available

    return cumem_available and CuMemAllocator.get_instance().get_current_usage() == 0


def require_sleep(llm: LLM) -> None:
    """Raises EngineError where an engine cannot sleep."""
    if not _in_pool(llm) and llm.llm_engine.vllm_config.device_config.device_type != "cpu":
        raise EngineError(
            "this engine cannot sleep: another engine of this process has vLLM's allocator, or this vLLM has "
            "none; give every engine that is to sleep a process of its own"
        )


def sleep(llm: LLM, level: int) -> None:
    """Gives memory back; the caches must have been reset."""
    # First what calls have kept for later ones: vLLM knows its own pool alone, and would leave the rest.
    llm.collective_rpc("hermes_forget")
    if _in_pool(llm):
        llm.sleep(level)
    else:
        llm.collective_rpc("hermes_sleep", args=(level,))


def wake(llm: LLM, part: Literal["weights", "kv_cache"]) -> None:
    """Room for the weights, which have their values after level 1 and must be loaded next after level 2; or
    for keys and values: the caches must be reset next."""
    if _in_pool(llm):
        llm.wake_up(tags=[part])


def give_back(tensors: Iterable[Tensor]) -> None:
    """Hands the pages under CPU tensors to the system, and what is free besides; they read as zeros.

    Smaller ones than a page are left alone, and all where the system is not Linux.

    Raises:
        OSError: the system refuses.
    """
    if not sys.platform.startswith("linux"):
        return
    libc: Any = ctypes.CDLL(None, use_errno=True)
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    for start, size in storages.items():
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = (start + size - first) // mmap.PAGESIZE * mmap.PAGESIZE
        if whole <= 0:
            continue
        if libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(whole), mmap.MADV_DONTNEED):
            raise OSError(ctypes.get_errno(), "madvise refused to give back keys and values")
        # The pages at both ends, which belong to others too.
        ctypes.memset(start, 0, first - start)
        ctypes.memset(first + whole, 0, start + size - first - whole)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _in_pool(llm: LLM) -> bool:
    """Whether vLLM's sleep mode has this engine's weights, keys and values."""
    return llm.llm_engine.model_config.enable_sleep_mode
