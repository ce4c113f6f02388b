"""Captured graphs against launching every kernel: images and decoding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu.images import image_work, prompts_of, unlike
from benchmarks.gpu.place import Found, Measure, NotRunError, Place, ratios
from benchmarks.speed.fused import FusedShowo
from benchmarks.speed.model_sizes import random_model
from engine.checkpoints.weights import load_config
from engine.files.layout import EMBEDDED_MODEL
from engine.samplers.mask_predict import SamplerCache
from engine.samplers.replay import captured

Results = tuple[Tensor, ...]


def computed(run: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
    """`captured` where there are no graphs: the work is done again, into the same memory."""
    found = run()

    def again() -> None:
        for held, one in zip(found, run(), strict=True):
            held.copy_(one)

    return again, found


def images(place: Place) -> Found:
    """Images of the embedded model, where launches dominate."""
    n, steps = place.pick((16, 50), (2, 2))
    config = load_config(EMBEDDED_MODEL)
    prompts = prompts_of(place, config, n)
    model = FusedShowo(random_model(config, torch.bfloat16, place.device))
    kept = SamplerCache(captured if place.device.type == "cuda" else computed)
    eager, replayed = (
        image_work(model, prompts, n, steps, prompts * n, one) for one in (SamplerCache(), kept)
    )
    seconds = place.seconds({"eager": eager, "captured": replayed})
    if kept.step is None:
        raise NotRunError("launches do not dominate at this shape, so nothing is captured")
    figures = {f"{side}, images a second": [prompts * n / one for one in seconds[side]] for side in seconds}
    figures["eager over captured, time"] = ratios(seconds["eager"], seconds["captured"])
    figures["share of codes unlike"] = unlike(replayed(0), eager(0))
    return Found(f"{prompts} x {n} images, {steps} steps, guided, bfloat16", figures)


def decoding(place: Place) -> Found:
    """Sampled captions by vLLM's scheduler."""
    if place.device.type == "cpu":
        raise NotRunError("needs CUDA")
    from benchmarks.gpu.probe import CHECKSUM, asked

    replayed, eager = (asked(place, graphs=one) for one in (True, False))
    rate = "captions a second"
    figures = {
        f"with graphs, {rate}": replayed[rate],
        f"without graphs, {rate}": eager[rate],
        "without over with graphs, time": ratios(replayed[rate], eager[rate]),
        "the same captions": [float(replayed[CHECKSUM] == eager[CHECKSUM])],
    }
    return Found("ragged captions", figures)


MEASURES: dict[str, Measure] = {"images": images, "decoding": decoding}
