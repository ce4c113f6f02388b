"""What a process spends inside model forward passes: the time, and the steps of decoding."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

Event = Any
"""A moment in the work of a GPU: `synchronize` and `elapsed_time`, as `torch.cuda.Event` has them."""


def gpu_event() -> Event | None:
    """The end of what the GPU was asked so far; None where there is none, and while a graph is captured."""
    if not torch.cuda.is_initialized() or torch.cuda.is_current_stream_capturing():
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class ForwardClock:
    """Adds up the time inside `with clock:`; a nested use counts once. Not for several threads.

    That is the host's time on a CPU, where a call returns when its work is done, and the GPU's on a GPU.
    """

    def __init__(self, event: Callable[[], Event | None] = gpu_event) -> None:
        """`event` is as `gpu_event`."""
        self.passes = self.decode_steps = self.decoded_rows = 0
        self._event = event
        self._seconds = self._start = 0.0
        self._depth = 0
        self._opened: Event | None = None
        self._spans: list[tuple[Event, Event]] = []

    @property
    def seconds(self) -> float:
        """The sum so far; waits for the GPU."""
        for start, end in self._spans:
            end.synchronize()
            self._seconds += start.elapsed_time(end) / 1000
        self._spans.clear()
        return self._seconds

    def decoded(self, rows: int) -> None:
        """Counts a step that chooses the next token of so many sequences."""
        self.decode_steps += 1
        self.decoded_rows += rows

    def __enter__(self) -> None:
        if self._depth == 0:
            self.passes += 1
            self._opened, self._start = self._event(), time.perf_counter()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            closed = self._event() if self._opened is not None else None
            if self._opened is not None and closed is not None:
                # Read later: waiting here would stop the host at every pass.
                self._spans.append((self._opened, closed))
            else:
                self._seconds += time.perf_counter() - self._start


FORWARD = ForwardClock()
"""Layers and heads of the served model in this process, whoever runs them.

On a GPU vLLM's whole steps are timed besides (`HermesWorker.hermes_use_gpu`): a graph is replayed without the
model's Python.
"""
