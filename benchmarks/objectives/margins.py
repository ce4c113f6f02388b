"""Margins over training for every objective: same weights, pairs, seed and steps, one curve each.

Preferences that lack a side are left out, so that all objectives see the same pairs in the same order. A
curve that the JSON file holds already, of the same plan, is not computed again.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.objectives.margins_plot import draw
from benchmarks.speed import pair_work
from benchmarks.speed.timing import Machine, machine
from engine.files.atomic import write_file
from engine.files.layout import resolve_model
from engine.records import Preference, Record
from train.command import precompute
from train.config import TrainConfig
from train.data.preferences import load_preferences
from train.logging.metrics import ModalityMetrics, TrainStep
from train.loop import run_training
from train.reference.inputs import read_inputs


class Plan(Record):
    """What all curves share."""

    pairs: str
    """Digest of the pairs' file."""
    count: int
    """Preferences with both sides."""
    steps: int
    batch: int
    learning_rate: float
    sum_steps: int
    """Of the curves that begin with `sum`."""
    seed: int


class Curve(Record):
    """One objective; a number a step, of that step's batch before its update."""

    name: str
    settings: dict[str, Any]
    caption_margin: tuple[float, ...]
    image_margin: tuple[float, ...]
    caption_win_gain: tuple[float, ...]
    image_win_gain: tuple[float, ...]
    caption_accuracy: tuple[float, ...]
    image_accuracy: tuple[float, ...]
    caption_kl: tuple[float, ...]
    image_kl: tuple[float, ...]
    grad_norm: tuple[float, ...]


class Report(Record):
    """A run of this script."""

    machine: Machine
    plan: Plan
    curves: tuple[Curve, ...]


def variants(plan: Plan) -> dict[str, dict[str, Any]]:
    """Settings of every curve, by its name."""
    after = f"after {plan.sum_steps} of sum"
    return {
        "sum": {"objective": "sum"},
        "product": {"objective": "product"},
        f"product {after}": {"objective": "product", "sum_steps": plan.sum_steps},
        "softmin": {"objective": "softmin"},
        "und": {"objective": "und"},
        "gen": {"objective": "gen"},
    }


def train_curve(plan: Plan, name: str, pairs: Path, checkpoint: Path, folder: Path) -> Curve:
    """Trains one objective from the checkpoint."""
    settings = variants(plan)[name]
    config = TrainConfig(
        steps=plan.steps,
        batch_size=plan.batch,
        learning_rate=plan.learning_rate,
        seed=plan.seed,
        warmup=min(10, plan.steps // 10),
        save_every=plan.steps,
        **settings,
    )
    inputs = read_inputs(pairs, checkpoint, config)
    store = precompute(inputs, folder / "reference.zarr")
    steps: list[TrainStep] = []

    def report(step: TrainStep) -> None:
        steps.append(step)
        if step.step % 20 == 0:
            print(f"{name}: step {step.step}, margin {step.margin:+.3f}", file=sys.stderr, flush=True)

    run_training(inputs, folder / name.replace(" ", "-"), store, report)
    return Curve(
        name=name,
        settings=settings,
        caption_margin=_series(steps, "captions", "margin"),
        image_margin=_series(steps, "images", "margin"),
        caption_win_gain=_series(steps, "captions", "win_gain"),
        image_win_gain=_series(steps, "images", "win_gain"),
        caption_accuracy=_series(steps, "captions", "accuracy"),
        image_accuracy=_series(steps, "images", "accuracy"),
        caption_kl=_series(steps, "captions", "kl"),
        image_kl=_series(steps, "images", "kl"),
        grad_norm=tuple(round(step.grad_norm, 4) for step in steps),
    )


def _series(steps: list[TrainStep], side: str, field: str) -> tuple[float, ...]:
    found: list[ModalityMetrics | None] = [getattr(step, side) for step in steps]
    return tuple(round(getattr(one, field), 4) for one in found if one is not None)


def both_sided(pairs: Path, limit: int) -> list[Preference]:
    """The first preferences of a file that have both pairs."""
    found = [one for one in load_preferences(pairs) if one.captions and one.images]
    return found[: limit or None]


def earlier(to: Path, plan: Plan) -> dict[str, Curve]:
    """Curves of the same plan that a file holds."""
    if not to.is_file():
        return {}
    found = msgspec.json.decode(to.read_bytes(), type=Report)
    return {curve.name: curve for curve in found.curves} if found.plan == plan else {}


def table(curves: dict[str, Curve]) -> str:
    """Means over the last tenth of the steps, a line a curve."""

    def last(values: tuple[float, ...]) -> str:
        tail = values[-max(1, len(values) // 10) :]
        return f"{sum(tail) / len(tail):+8.3f}" if tail else "       -"

    head = f"{'':24}  caption margin, winner's gain   image margin, winner's gain"
    return "\n".join(
        [head]
        + [
            f"{name:24} {last(one.caption_margin)} {last(one.caption_win_gain)}      "
            f"{last(one.image_margin)} {last(one.image_win_gain)}"
            for name, one in curves.items()
        ]
    )


def options() -> argparse.ArgumentParser:
    """The plan, and which curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=Path, required=True, help="pairs.jsonl of a curation")
    parser.add_argument("--model", default="", help="checkpoint that sampled them [embedded model]")
    parser.add_argument("--limit", type=int, default=0, help="of preferences with both sides; 0 takes all")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--sum-steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the curves")
    parser.add_argument("--to", type=Path, default=Path("runs/bench/margins.json"))
    parser.add_argument("--picture", type=Path, help="PNG to draw")
    return parser


def main() -> None:
    """Trains what is missing, writes the JSON after every curve, prints the table."""
    given = options().parse_args()
    chosen = both_sided(given.pairs, given.limit)
    plan = Plan(
        pairs=hashlib.blake2b(given.pairs.read_bytes(), digest_size=8).hexdigest(),
        count=len(chosen),
        steps=given.steps,
        batch=given.batch,
        learning_rate=given.learning_rate,
        sum_steps=given.sum_steps,
        seed=given.seed,
    )
    curves = earlier(given.to, plan)
    with tempfile.TemporaryDirectory() as scratch:
        pairs = pair_work.write(Path(scratch) / "pairs.jsonl", chosen)
        for name in given.only or variants(plan):
            if name not in curves:
                curves[name] = train_curve(plan, name, pairs, resolve_model(given.model), Path(scratch))
                ordered = tuple(curves[one] for one in variants(plan) if one in curves)
                report = Report(machine=machine(), plan=plan, curves=ordered)
                write_file(given.to, msgspec.json.encode(report))
    print(table(curves))
    if given.picture:
        draw({name: curves[name] for name in variants(plan) if name in curves}, given.picture)
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
