"""The engine end to end: captions and answers against batched generation, swaps, sleep, bits, curation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.gpu.place import Found, Measure, Place, child, ratios
from benchmarks.gpu.probe import CHECKSUM, asked, random_checkpoint
from benchmarks.speed import sampling
from benchmarks.speed.bench import timed
from benchmarks.speed.sampling import Models, SamplingSettings
from benchmarks.speed.swap import caption, sleep_figures
from engine.checkpoints.weights import load_model
from engine.serving.engine import Engine
from engine.tokenizers.text import TextTokenizer


@contextmanager
def served(place: Place) -> Iterator[tuple[Engine, Path, Path]]:
    """An engine that serves the first of two checkpoints of one shape."""
    import_module("vllm")
    with tempfile.TemporaryDirectory() as folder:
        (one, dtype), (other, _) = (random_checkpoint(place, Path(folder), seed) for seed in range(2))
        with Engine(one, dtype=dtype, kv_cache_gib=place.pick(0.0, 0.125)) as engine:
            yield engine, one, other


def texts(place: Place) -> Found:
    """Captions and answers about random images."""
    engine, checkpoint, _ = place.share(served)
    images, n, longest, check = place.pick((32, 8, 40, 16), (2, 2, 10, 4))
    given = SamplingSettings(
        dtype="bfloat16" if engine.precision == "bfloat16" else "float32",
        baselines=("batched",),
        images=images,
        n=n,
        questions=n,
        longest=longest,
        repeats=place.pick(3, 1),
        check_tokens=check,
    )
    model = load_model(checkpoint, getattr(torch, engine.precision)).to(place.device)
    models = Models(engine, model, TextTokenizer.load(checkpoint / "tokenizer.json"))
    figures: dict[str, list[float]] = {}
    for contest in (sampling.captions(models, given), sampling.answers(models, given)):
        *ours, batched = contest.timed(given)
        rival = [batched.samples / one for one in batched.seconds]
        for one in ours:
            name, rates = f"{one.work}, {one.side}", [one.samples / each for each in one.seconds]
            figures[f"{name}, a second"] = rates
            figures[f"{name} over batched generation (target 5)"] = ratios(rates, rival)
        figures[f"{contest.work}, greedy ones as by batched generation"] = [float(contest.same["batched"])]
    what = f"{images} images, {n} captions to {longest} tokens and {n} questions each, {engine.precision}"
    return Found(what, figures)


def swaps(place: Place) -> Found:
    """Two checkpoints that take each other's place, their files in the page cache."""
    (engine, *checkpoints), count = place.share(served), place.pick(6, 2)
    spent = list[float]()
    found = {caption(engine)}, set[tuple[int, ...]]()
    for number in range(1, count + 1):
        with timed(spent):
            engine.swap(checkpoints[number % 2])
        found[number % 2].add(caption(engine))
    alike = [len(one) for one in found] == [1, 1] and found[0] != found[1]
    figures = {"seconds of a swap (target 1)": spent, "each checkpoint always captions alike": [float(alike)]}
    return Found(f"{count} swaps from disk, {engine.precision}", figures)


def sleeps(place: Place) -> Found:
    """A sleep of each level."""
    engine, *_ = place.share(served)
    figures = {
        f"level {level}, {name}": [value]
        for level in (1, 2)
        for name, value in sleep_figures(engine, level).items()
    }
    return Found(engine.precision, figures)


def deterministic(place: Place) -> Found:
    """Kernels whose results do not depend on the batch, against the fastest ones."""
    place.drop()
    names = {"deterministic": True, "not deterministic": False}
    found = {name: asked(place, deterministic=one) for name, one in names.items()}
    figures = {
        f"{name}, {what}": values
        for name, said in found.items()
        for what, values in said.items()
        if what != CHECKSUM
    }
    for what in ("captions", "images"):
        on, off = (found[name][f"{what} a second"] for name in names)
        figures[f"{what}, time of deterministic over not"] = ratios(off, on)
    return Found("sampled captions and guided images; the other batch: one image or prompt", figures)


def curation(place: Place) -> Found:
    """A small `hermes curate` of the embedded model."""
    import_module("vllm")
    place.drop()
    limit, n = place.pick((16, 4), (2, 2))
    with tempfile.TemporaryDirectory() as folder:
        child("hermes_cli.main", "curate", "--run", folder, "--limit", str(limit), "--n", str(n))
        (summary,) = Path(folder).rglob("curate.json")
        speed = json.loads(summary.read_bytes())["throughput"]
    names = {
        "share of wall time in the engine (target 0.9)": "engine_share",
        "share of wall time in forward passes": "forward_share",
        "seconds": "seconds",
    }
    what = f"{limit} items, {n} candidates of each kind, the embedded model"
    return Found(what, {name: [speed[field]] for name, field in names.items()})


MEASURES: dict[str, Measure] = {
    "captions and answers": texts,
    "swap": swaps,
    "sleep": sleeps,
    "deterministic": deterministic,
    "curation": curation,
}
