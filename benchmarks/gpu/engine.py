"""The engine end to end: captions and answers against batched generation, swaps, sleep, bits, curation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import sampling, sides
from benchmarks.gpu.place import Found, Measure, Place, child, ratios
from benchmarks.gpu.probe import asked
from benchmarks.shapes import make
from benchmarks.sides import Models, Plan
from benchmarks.swap import caption, sleeps_of, timed
from engine.tokenizers.text import TextTokenizer
from engine.vllm_engine import Engine
from engine.weights import load_model


class Served(NamedTuple):
    """Two checkpoints of one shape, and an engine that serves the first."""

    checkpoints: tuple[Path, Path]
    shape: str
    dtype: str
    engine: Engine


def random_checkpoint(place: Place, folder: Path, seed: int = 0) -> tuple[Path, str, str]:
    """A checkpoint with the released sizes, their name, and the type that it serves in."""
    shape, dtype = place.pick(("showo-1.3b", "bfloat16"), ("tiny", "float32"))
    return make(folder, shape, getattr(torch, dtype), device=place.device, seed=seed), shape, dtype


@contextmanager
def served(place: Place) -> Iterator[Served]:
    """What the measurements share."""
    import_module("vllm")
    with tempfile.TemporaryDirectory() as folder:
        one, shape, dtype = random_checkpoint(place, Path(folder) / "one")
        other, *_ = random_checkpoint(place, Path(folder) / "other", 1)
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
    figures: dict[str, list[float]] = {}
    for contest in (sides.captions(models, plan), sides.vqa(models, plan)):
        for row in sampling.timed(plan, contest):
            ours = [row.ours_samples / one for one in row.ours_seconds]
            figures[f"{row.path}, {row.mode}, a second"] = ours
            rival = [row.baseline_samples / one for one in row.baseline_seconds]
            figures[f"{row.path}, {row.mode}, ours over batched generation (target 5)"] = ratios(ours, rival)
        figures[f"{contest.path}, greedy ones as by batched generation"] = [float(contest.same["batched"])]
    return Found(
        f"{images} images, {n} captions to {longest} tokens and {n} questions each, {dtype}", figures
    )


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
    figures = {"seconds of a swap (target 1)": spent, "each checkpoint always captions alike": [float(alike)]}
    return Found(f"{count} swaps from disk, {dtype}", figures)


def sleeps(place: Place) -> Found:
    """A sleep of each level."""
    engine = place.share(served).engine
    figures: dict[str, list[float]] = {}
    for one in sleeps_of(engine, lambda: caption(engine, engine.config.num_image_tokens)):
        figures |= {
            f"level {one.level}, seconds to sleep": [one.sleep_seconds],
            f"level {one.level}, seconds to wake": [one.wake_seconds],
            f"level {one.level}, GiB awake": [one.awake_mib / 1024],
            f"level {one.level}, GiB asleep": [one.asleep_mib / 1024],
            f"level {one.level}, captions as before": [float(one.same_captions)],
        }
    return Found(engine.precision, figures)


def deterministic(place: Place) -> Found:
    """Kernels whose results do not depend on the batch, against the fastest ones."""
    import_module("vllm")
    place.drop()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, _, dtype = random_checkpoint(place, Path(folder))
        place.clear()
        on, off = (asked(place, checkpoint, dtype, deterministic=one) for one in (True, False))
    figures = {}
    for name, said in (("deterministic", on), ("not deterministic", off)):
        figures |= {
            f"{name}, captions a second": said.captions,
            f"{name}, paintings a second": said.paintings,
            f"{name}, share of captions unlike in another batch": [said.captions_unlike],
            f"{name}, share of paintings unlike in another batch": [said.paintings_unlike],
        }
    figures["captions, time of deterministic over not"] = ratios(off.captions, on.captions)
    figures["paintings, time of deterministic over not"] = ratios(off.paintings, on.paintings)
    return Found(
        f"sampled captions, guided paintings, {dtype}; the other batch: one image or prompt", figures
    )


def curation(place: Place) -> Found:
    """A small `hermes curate` of the embedded model."""
    import_module("vllm")
    place.drop()
    limit, n = place.pick((16, 4), (2, 2))
    with tempfile.TemporaryDirectory() as folder:
        child("hermes_cli.main", "curate", "--run", folder, "--limit", str(limit), "--n", str(n))
        (summary,) = Path(folder).rglob("curate.json")
        speed = json.loads(summary.read_bytes())["throughput"]
    figures = {
        "share of wall time in the engine (target 0.9)": [speed["engine_share"]],
        "share of wall time in forward passes": [speed["forward_share"]],
        "seconds": [speed["seconds"]],
    }
    return Found(f"{limit} items, {n} candidates of each kind, the embedded model", figures)


MEASURES: dict[str, Measure] = {
    "captions and answers": texts,
    "swap": swaps,
    "sleep": sleeps,
    "deterministic": deterministic,
    "curation": curation,
}
