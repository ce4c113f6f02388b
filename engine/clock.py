"""A stopwatch for the time that a process spends inside model forward passes."""

from __future__ import annotations

import time
from types import TracebackType


class Clock:
    """Adds up the wall time inside `with clock:`; a nested use counts once. Not for several threads."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0
        self._depth = 0

    def __enter__(self) -> None:
        if self._depth == 0:
            self._start = time.perf_counter()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._start


FORWARD = Clock()
"""Layers and heads of the served model in this process, whoever runs them.

It is right where a call returns when its work is done, as on a CPU.
"""
