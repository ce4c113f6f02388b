"""Captured graphs against launching every kernel: painting and decoding."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.fused import FusedShowo
from benchmarks.gpu.painting import embedded, painter, prompts_of, unlike
from benchmarks.gpu.place import Found, Measure, NotRunError, Place, ratios
from benchmarks.shapes import random_model
from engine.samplers.canvas_batches import Kept
from engine.samplers.replay import captured

Results = tuple[Tensor, ...]


def computed(run: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
    """`captured` where there are no graphs: the work is done again, into the same memory."""
    found = run()

    def again() -> None:
        for held, one in zip(found, run(), strict=True):
            held.copy_(one)

    return again, found


def painting(place: Place) -> Found:
    """Images of the embedded model, where launches dominate."""
    n, steps = place.pick((16, 50), (2, 2))
    config = embedded(place)
    prompts = prompts_of(place, config, n)
    model = FusedShowo(random_model(config, torch.bfloat16, place.device))
    kept = Kept(captured if place.device.type == "cuda" else computed)
    eager, replayed = (painter(model, prompts, n, steps, prompts * n, one) for one in (Kept(), kept))
    seconds = place.seconds({"eager": eager, "captured": replayed})
    if kept.step is None:
        raise NotRunError("launches do not dominate at this shape, so nothing is captured")
    rates = {name: [prompts * n / one for one in found] for name, found in seconds.items()}
    figures = {
        "captured, images a second": rates["captured"],
        "eager, images a second": rates["eager"],
        "eager over captured, time": ratios(seconds["eager"], seconds["captured"]),
        "share of codes unlike": unlike(replayed(0), eager(0)),
    }
    return Found(f"{prompts} x {n} images, {steps} steps, guided, bfloat16", figures)


def decoding(place: Place) -> Found:
    """Sampled captions by vLLM's scheduler."""
    import_module("vllm")
    if place.device.type == "cpu":
        raise NotRunError("needs CUDA")
    from benchmarks.gpu.engine import random_checkpoint
    from benchmarks.gpu.probe import asked

    with tempfile.TemporaryDirectory() as folder:
        checkpoint, _, dtype = random_checkpoint(place, Path(folder))
        place.clear()
        with_graphs, eager = (asked(place, checkpoint, dtype, graphs=one, steps=1) for one in (True, False))
    figures = {
        "with graphs, captions a second": with_graphs.captions,
        "without graphs, captions a second": eager.captions,
        "without over with graphs, time": ratios(with_graphs.captions, eager.captions),
        "the same captions": [float(with_graphs.digest == eager.digest)],
    }
    return Found(f"ragged captions, {dtype}", figures)


MEASURES: dict[str, Measure] = {"painting": painting, "decoding": decoding}
