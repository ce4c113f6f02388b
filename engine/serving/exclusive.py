"""Keeps calls of an engine and changes of its weights apart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import EngineError


class ExclusiveAccess:
    """Calls pass while nothing else is under way; what must be alone is refused while a call is.

    Nobody waits: an engine has one user at a time, and two at once are a mistake to be told of.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._alone = ""

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call that needs the weights to stay as they are.

        Raises:
            EngineError: something that must be alone is under way.
        """
        with self._lock:
            if self._alone:
                raise EngineError(f"{self._alone} is under way; call again when it has ended")
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Keeps calls out until the block ends.

        Raises:
            EngineError: calls are in flight, or something else that must be alone.
        """
        with self._lock:
            if self._alone:
                raise EngineError(f"{what} cannot begin while {self._alone} is under way")
            if self._calls:
                raise EngineError(f"{what} cannot begin with {self._calls} calls in flight; let them end")
            self._alone = what
        try:
            yield
        finally:
            with self._lock:
                self._alone = ""
