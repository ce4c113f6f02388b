"""How fast a curation sampled, and where its time went."""

from __future__ import annotations

from engine.metering.counters import EngineWork
from engine.records import Record


class Throughput(Record):
    """What one command sampled."""

    items: int
    seconds: float
    captions_per_second: float
    """While captions were sampled; likewise the other rates."""
    caption_tokens_per_second: float
    images_per_second: float
    answers_per_second: float
    engine_share: float
    """Of the wall time, inside calls of the engine."""
    forward_share: float
    """Of the wall time, inside forward passes of the model."""
    prefix_hit_rate: float
    """Share of prompt tokens that were cached, or shared by the captions of an image."""
    mean_batch: float
    """Sequences in a step of decoding."""
    work: EngineWork


def throughput(work: EngineWork, seconds: float, items: int, engines: int = 1) -> Throughput:
    """Rates and shares of some work that took `seconds` of wall time on so many engines at once."""
    every = seconds * engines
    return Throughput(
        items=items,
        seconds=seconds,
        captions_per_second=work.captions.samples_per_second,
        caption_tokens_per_second=work.captions.tokens_per_second,
        images_per_second=work.images.samples_per_second,
        answers_per_second=work.answers.samples_per_second,
        engine_share=work.seconds / every if every else 0.0,
        forward_share=work.forward_seconds / every if every else 0.0,
        prefix_hit_rate=work.prefix_hit_rate,
        mean_batch=work.mean_batch,
        work=work,
    )


def rates(work: EngineWork) -> str:
    """One short line for a progress bar."""
    said = [f"{work.captions.tokens_per_second:.0f} tok/s"]
    if work.images.samples:
        said.append(f"{work.images.samples_per_second:.1f} img/s")
        said.append(f"{work.answers.samples_per_second:.0f} ans/s")
    return ", ".join([*said, f"cache {work.prefix_hit_rate:.0%}", f"batch {work.mean_batch:.0f}"])
