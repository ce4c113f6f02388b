"""Captured graphs against launching every kernel: painting and decoding."""

from __future__ import annotations

from benchmarks.gpu.place import Found, Measure, NotRunError, Place, need


def painting(place: Place) -> Found:
    """Images of the embedded model, where launches dominate."""
    raise NotRunError("painting captures no graphs")


def decoding(place: Place) -> Found:
    """Captions by vLLM."""
    need("vllm")
    raise NotRunError("the engine captures no graphs here")


MEASURES = {
    "painting": Measure(painting, ("without over with graphs, time",)),
    "decoding": Measure(decoding, ("without over with graphs, time",)),
}
