"""What a CUDA graph does, on a CPU: operations are recorded with their tensors and repeated on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Results = tuple[Tensor, ...]
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::lift_fresh"}
"""What waits for the device, as boolean indices do, or brings numbers from the host."""


class Tape(TorchDispatchMode):
    """Records while it is entered.

    Raises:
        RuntimeError: an operation could not be part of a graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        indices = args[1] if name == "aten::index" else []
        if name in WAITS or any(one is not None and one.dtype == torch.bool for one in indices):
            raise RuntimeError(f"{func.name()} cannot be captured")
        found = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        for func, args, kwargs, found in self._calls:
            again = func(*args, **kwargs)
            for held, one in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(held, Tensor) and held.data_ptr() != one.data_ptr():
                    held.copy_(one)


class Taping:
    """`engine.samplers.replay.captured` without a GPU."""

    def __init__(self) -> None:
        self.captures = 0

    def __call__(self, run: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
        self.captures += 1
        run()
        tape = Tape()
        with tape:
            found = run()
        return tape.replay, found
