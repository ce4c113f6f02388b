"""A function of tensors that is captured once and then replayed on the same memory.

Where a model is small, launching a step's kernels takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]
Capture = Callable[[Callable[[], tuple[Tensor, ...]]], tuple[Callable[[], None], tuple[Tensor, ...]]]
"""From a call without arguments: what repeats its work, and the tensors that it writes each time."""

WARM_UP = 3
"""Calls before a capture, in which libraries set themselves up and Triton compiles."""


def captured(run: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """`run` as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # What other threads do on the GPU meanwhile is no part of it, and no fault.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = run()
    return graph.replay, found


class Replayed:
    """The function, on tensors of the examples' shapes; the next call overwrites its results."""

    def __init__(self, function: Function, examples: Sequence[Tensor], capture: Capture) -> None:
        """Whatever else the function reads must stay where it is."""
        self._given = [one.clone() for one in examples]
        self._replay, self._found = capture(lambda: function(*self._given))

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        for held, one in zip(self._given, given, strict=True):
            held.copy_(one)
        self._replay()
        return self._found
