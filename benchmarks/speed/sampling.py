"""Samples a second of the engine against two baselines, on random models: captions, answers, images.

`official` does the work of the released scripts (`official_loop`), `batched` that of batched generation
with a KV cache (`batched_loop`); both run the training module on the same weights. Images of the batched
side are all candidates of one prompt at once, which is also what the released curation script does.

A side may time fewer samples than another, never less work a sample. The sides are timed in turns; a row
holds the medians, and the smallest and largest ratio of a round. In the same run greedy captions and
answers of all sides, and images generated with the same random numbers, are compared.

Images of a few steps (`--image-steps`) stand for those of 50: a step of the baselines costs the same in
both, one of the engine costs a little more in the shorter run, which finds more positions hidden on
average.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import msgspec
import torch

from benchmarks.speed import sides
from benchmarks.speed.shapes import SHAPES, make
from benchmarks.speed.sides import BASELINES, PATHS, Contest, Models, Plan
from benchmarks.speed.timing import Machine, in_turns, machine
from engine.checkpoints.weights import load_model
from engine.files.atomic import write_file
from engine.records import Record
from engine.serving.engine import Engine
from engine.tokenizers.text import TextTokenizer

QUICK = Plan(images=4, prompts=1, steps=18, repeats=3)


class Row(Record):
    """One path against one baseline."""

    path: str
    mode: str
    """How the engine works: sampled, text, likelihood or guided. The baselines answer in free text always."""
    shape: str
    dtype: str
    layers: int
    baseline: str
    n: int
    """Captions or images of one input, or questions about one image."""
    steps: int
    """Image generation steps, tokens of the longest caption, or tokens of a free text."""
    ours_samples: int
    baseline_samples: int
    ours_tokens: float
    """New tokens of a sample, on average; of an image its tokens, whatever the steps."""
    baseline_tokens: float
    ours_per_s: float
    baseline_per_s: float
    ratio: float
    spread: tuple[float, float]
    """Smallest and largest ratio of a round."""
    ours_seconds: tuple[float, ...]
    baseline_seconds: tuple[float, ...]
    repeats: int
    same_results: bool | None
    """Whether both gave the same where nothing is random; None where the modes differ."""


class Report(Record):
    """A run of this script."""

    machine: Machine
    plan: Plan
    rows: tuple[Row, ...]


def timed(plan: Plan, contest: Contest) -> list[Row]:
    """Times all sides in turns: a row for each mode of the engine and each baseline."""
    every = {**contest.ours, **contest.baselines}
    seconds = in_turns({name: side.work for name, side in every.items()}, plan.repeats, plan.warmups)
    rate = {name: [side.samples / one for one in seconds[name]] for name, side in every.items()}
    return [
        Row(
            path=contest.path,
            mode=mode,
            shape=plan.shape,
            dtype=plan.dtype,
            layers=plan.layers or SHAPES[plan.shape].layers,
            baseline=name,
            n=contest.inputs,
            steps=contest.steps,
            ours_samples=ours.samples,
            baseline_samples=theirs.samples,
            ours_tokens=ours.tokens,
            baseline_tokens=theirs.tokens,
            ours_per_s=statistics.median(rate[mode]),
            baseline_per_s=statistics.median(rate[name]),
            ratio=statistics.median(rate[mode]) / statistics.median(rate[name]),
            spread=_spread(rate[mode], rate[name]),
            ours_seconds=tuple(seconds[mode]),
            baseline_seconds=tuple(seconds[name]),
            repeats=plan.repeats,
            same_results=contest.same[name] if mode == next(iter(contest.ours)) else None,
        )
        for mode, ours in contest.ours.items()
        for name, theirs in contest.baselines.items()
    ]


def _spread(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return min(ratios), max(ratios)


def measure(plan: Plan, folder: Path) -> Report:
    """Makes the checkpoint in `folder`, unless it is there, and times every path of the plan."""
    checkpoint = make(folder, plan.shape, getattr(torch, plan.dtype), plan.layers)
    model = load_model(checkpoint, getattr(torch, plan.dtype))
    rows: list[Row] = []
    with Engine(checkpoint, dtype=plan.dtype, kv_cache_gib=plan.kv_gib) as engine:
        models = Models(engine, model, TextTokenizer.load(checkpoint / "tokenizer.json"))
        for path in plan.paths:
            contest: Contest = getattr(sides, path)(models, plan)
            found = timed(plan, contest)
            print(table(found), flush=True)
            rows += found
    return Report(machine=machine(), plan=plan, rows=tuple(rows))


def table(rows: list[Row]) -> str:
    """One line a row."""
    return "\n".join(
        f"{row.path:9} {row.mode:11} {row.shape:11} {row.layers:3} layers  ours {row.ours_per_s:9.3f}/s  "
        f"{row.baseline:9} {row.baseline_per_s:9.4f}/s  {row.ratio:7.1f}x "
        f"({row.spread[0]:.1f} to {row.spread[1]:.1f})  same results: "
        f"{ {True: 'yes', False: 'NO', None: '-'}[row.same_results] }"
        for row in rows
    )


def plan_of(given: argparse.Namespace) -> Plan:
    """The plan that the options ask for, on top of the quick or the usual one."""
    usual = QUICK if given.quick else Plan()
    names = {field.name for field in msgspec.structs.fields(Plan)}
    options = {name: value for name, value in vars(given).items() if name in names and value is not None}
    if given.image_steps:
        options["steps"] = given.image_steps
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return msgspec.structs.replace(usual, **options)


def options() -> argparse.ArgumentParser:
    """Every field of the plan, under its own name; `--image-steps` for `steps`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--paths", nargs="+", choices=PATHS)
    parser.add_argument("--baselines", nargs="+", choices=BASELINES)
    for name in (
        "layers",
        "images",
        "n",
        "questions",
        "prompts",
        "longest",
        "official",
        "repeats",
        "warmups",
    ):
        parser.add_argument(f"--{name}", type=int)
    for name in ("--check-tokens", "--check-steps", "--image-steps", "--seed"):
        parser.add_argument(name, type=int)
    parser.add_argument("--kv-gib", type=float, help="memory of the engine's paged keys and values")
    parser.add_argument("--quick", action="store_true", help="less work, for a first look")
    parser.add_argument("--checkpoints", type=Path, help="keeps the random checkpoint in this folder")
    parser.add_argument("--to", type=Path, default=Path("runs/bench/sampling.json"))
    return parser


def main() -> None:
    """Prints the table and writes the JSON."""
    given = options().parse_args()
    plan = plan_of(given)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.checkpoints or Path(scratch)) / f"{plan.shape}-{plan.dtype}-{plan.layers}"
        report = measure(plan, folder)
    write_file(given.to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
