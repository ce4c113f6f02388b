"""The seam between whoever has new weights and the workers that serve: what every way of moving them offers.

A swap asks for the manifest first and checks all of it, then has the tensors brought to the workers, who lay
them out aside. No transport touches what serves: that is the engine's own step (`engine.vllm_swap`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from engine.checkpoints.weights import TensorLayout, file_fingerprint, tensor_layout
from engine.files.layout import WEIGHTS

Call = Callable[..., Any]
"""A method of all workers by its name, with its arguments; the first worker's result."""


class Delivery(Protocol):
    """One set of weights on its way."""

    def manifest(self) -> TensorLayout:
        """Names, shapes and types of what will come; moves nothing.

        Raises:
            CheckpointError: it cannot be read.
        """
        ...

    def fingerprint(self) -> str:
        """`engine.checkpoints.weights.fingerprint` of what will come.

        Raises:
            CheckpointError: it is not what was promised.
        """
        ...

    def bring(self, call: Call) -> None:
        """Has every worker lay the weights out aside, by its `hermes_stage` or what leads to it."""
        ...

    def settled(self) -> None:
        """The swap is over, well or not: what the transport kept for it can go."""
        ...


class FileDelivery:
    """Weights in a safetensors file, which every worker maps into its memory and copies from."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def manifest(self) -> TensorLayout:
        return tensor_layout(self._path)

    def fingerprint(self) -> str:
        return file_fingerprint(self._path)

    def bring(self, call: Call) -> None:
        call("hermes_stage", str(self._path))

    def settled(self) -> None:
        """A checkpoint stays where it is."""


def from_disk(checkpoint: Path) -> FileDelivery:
    """The weights of a checkpoint folder."""
    return FileDelivery(checkpoint / WEIGHTS)
