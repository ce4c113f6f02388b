"""The engine end to end: captions and answers against batched generation, swaps, sleep."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import sampling, sides
from benchmarks.gpu.place import Found, Measure, NotRunError, Place, need, ratios
from benchmarks.shapes import make
from benchmarks.sides import Models, Plan
from benchmarks.swap import caption, sleeps_of, timed
from engine.tokenizers.text import TextTokenizer
from engine.vllm_engine import Engine
from engine.weights import load_model

TEXTS = (
    *(
        f"{path}, {what}"
        for path in ("captions", "free answers", "likely answers")
        for what in ("a second", "ours over batched generation (target 5)")
    ),
    "captions, greedy ones as by batched generation",
    "free answers as by batched generation",
)
SWAP = ("seconds of a swap (target 1)", "each checkpoint always captions alike")
SLEEP = [
    f"level {level}, {what}"
    for level in (1, 2)
    for what in ("seconds to sleep", "seconds to wake", "GiB awake", "GiB asleep", "captions as before")
]


class Served(NamedTuple):
    """Two checkpoints of one shape, and an engine that serves the first."""

    checkpoints: tuple[Path, Path]
    shape: str
    dtype: str
    engine: Engine


@contextmanager
def served(place: Place) -> Iterator[Served]:
    """What the measurements share."""
    need("vllm")
    shape, dtype = place.pick(("showo-1.3b", "bfloat16"), ("tiny", "float32"))
    with tempfile.TemporaryDirectory() as folder:
        one, other = (
            make(Path(folder) / str(seed), shape, getattr(torch, dtype), device=place.device, seed=seed)
            for seed in range(2)
        )
        with Engine(one, dtype=dtype, kv_cache_gib=place.pick(0.0, 0.125)) as engine:
            yield Served((one, other), shape, dtype, engine)


def texts(place: Place) -> Found:
    """Captions and answers about random images."""
    (first, _), shape, dtype, engine = place.share(served)
    images, n, longest, tokens = place.pick((32, 8, 40, 16), (2, 2, 10, 4))
    plan = Plan(
        shape=shape,
        dtype=dtype,
        baselines=("batched",),
        images=images,
        n=n,
        questions=n,
        longest=longest,
        repeats=place.pick(3, 1),
        check_tokens=tokens,
    )
    model = load_model(first, getattr(torch, dtype)).to(place.device)
    models = Models(engine, model, TextTokenizer.load(first / "tokenizer.json"))
    figures = []
    contests = [sides.captions(models, plan), sides.vqa(models, plan)]
    for row in (row for contest in contests for row in sampling.timed(plan, contest)):
        ours = [row.ours_samples / one for one in row.ours_seconds]
        figures += [ours, ratios(ours, [row.baseline_samples / one for one in row.baseline_seconds])]
    figures += [[float(contest.same["batched"])] for contest in contests]
    work = f"{images} images, {n} captions to {longest} tokens and {n} questions each, {dtype}"
    return Found(work, figures)


def swaps(place: Place) -> Found:
    """Two checkpoints that take each other's place, their files in the page cache."""
    (checkpoints, _, dtype, engine), count = place.share(served), place.pick(6, 2)
    tokens, spent = engine.config.num_image_tokens, list[float]()
    found = {caption(engine, tokens)}, set[tuple[int, ...]]()
    for number in range(1, count + 1):
        with timed(spent):
            engine.swap(checkpoints[number % 2])
        found[number % 2].add(caption(engine, tokens))
    alike = [len(one) for one in found] == [1, 1] and found[0] != found[1]
    return Found(f"{count} swaps from disk, {dtype}", (spent, [float(alike)]))


def sleeps(place: Place) -> Found:
    """A sleep of each level."""
    engine = place.share(served).engine
    figures: list[list[float]] = []
    for one in sleeps_of(engine, lambda: caption(engine, engine.config.num_image_tokens)):
        gib = one.awake_mib / 1024, one.asleep_mib / 1024
        values = (one.sleep_seconds, one.wake_seconds, *gib, float(one.same_captions))
        figures += [[value] for value in values]
    return Found(engine.precision, figures)


def deterministic(place: Place) -> Found:
    """Captions with kernels whose results do not depend on the batch, against the fastest ones."""
    raise NotRunError("this engine has no deterministic kernels to choose")


MEASURES = {
    "captions and answers": Measure(texts, TEXTS),
    "swap": Measure(swaps, SWAP),
    "sleep": Measure(sleeps, SLEEP),
    "deterministic": Measure(deterministic, ("captions, without over with, time",)),
}
