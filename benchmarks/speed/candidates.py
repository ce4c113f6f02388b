"""What n candidates cost beside one: cost(n) / cost(1) of captions, images and answers on one engine.

An image's captions, and the questions about it, share its prefix; a prompt's images share its text. All
inputs of a call are in flight together, and each call has inputs of its own, made before the clock starts,
so that nothing is found in a cache. The sizes are timed in turns; a cost is a ratio of medians.

`vqa` and `vqa, drafts` are n questions about each image: decoded free text, and the engine's own way to
the same free text, which reads the choices first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from benchmarks.speed import workload
from benchmarks.speed.cost_plot import draw
from benchmarks.speed.shapes import SHAPES, make
from benchmarks.speed.timing import Machine, in_turns, machine
from curate.shapes import world
from curate.shapes.scene import render
from engine.files.atomic import write_file
from engine.files.layout import SHOWO_SHAPES
from engine.records import AnswerSettings, CaptionSettings, ImageSettings, ImageTokens, Question, Record
from engine.serving.engine import Engine

MOST_QUESTIONS = 64


class Cost(Record):
    """One kind of work at one n."""

    work: str
    inputs: int
    """Images, or prompts, in flight."""
    n: int
    cost: float
    """cost(n) / cost(1), of medians."""
    spread: tuple[float, float]
    """Smallest and largest cost of a round."""
    per_candidate: float
    """cost / n: 1 where company saves nothing."""
    seconds: tuple[float, ...]


class Report(Record):
    """A run of this script."""

    machine: Machine
    model: str
    repeats: int
    seed: int
    settings: dict[str, object]
    rows: tuple[Cost, ...]


class Inputs(NamedTuple):
    """What one call is given; `questions` are distinct, for all images alike."""

    images: list[ImageTokens]
    prompts: list[str]
    questions: list[Question]
    keys: list[str]


Source = Callable[[int, int], Inputs]
"""(how many, seed) -> inputs that no other seed gives."""


def shapes_world(engine: Engine) -> Source:
    """Items of the embedded world."""

    def source(count: int, seed: int) -> Inputs:
        drawn = [world.item("evaluation", seed, index) for index in range(max(count, 16))]
        items = [item for item, _ in drawn]
        pool = {question.question: question for item in items for question in item.questions}
        return Inputs(
            images=engine.encode(np.stack([render(scene) for _, scene in drawn[:count]])),
            prompts=[item.caption for item in items[:count]],
            questions=list(pool.values())[:MOST_QUESTIONS],
            keys=[item.id for item in items[:count]],
        )

    return source


def random_work(engine: Engine) -> Source:
    """Random images and words, for a random checkpoint."""

    def source(count: int, seed: int) -> Inputs:
        return Inputs(
            images=workload.images(engine.config, count, seed),
            prompts=workload.prompts(count, seed),
            questions=workload.questions(1, MOST_QUESTIONS, seed)[0],
            keys=[f"{seed}/{i}" for i in range(count)],
        )

    return source


def works(engine: Engine, caption: CaptionSettings, image: ImageSettings) -> dict[str, Callable]:
    """Kind of work -> a function of (inputs, n)."""

    def captions(given: Inputs, n: int) -> object:
        return engine.caption(given.images, given.keys, 0, [caption] * n)

    def images(given: Inputs, n: int) -> object:
        return engine.generate_images(given.prompts, n, given.keys, 0, image)

    def answers(settings: AnswerSettings) -> Callable[[Inputs, int], object]:
        def work(given: Inputs, n: int) -> object:
            asked: Sequence[Sequence[Question]] = [given.questions[:n]] * len(given.images)
            return engine.answer(given.images, asked, settings)

        return work

    return {
        "captions": captions,
        "images": images,
        "vqa": answers(AnswerSettings(drafts=False)),
        "vqa, drafts": answers(AnswerSettings()),
    }


def costs(
    name: str, work: Callable, source: Source, inputs: int, sizes: Sequence[int], repeats: int, seed: int
) -> list[Cost]:
    """One kind of work at every n, in turns, after a warm-up round."""
    made = {
        (number, n): source(inputs, seed + 1000 * number + n) for number in range(repeats + 1) for n in sizes
    }

    def side(n: int) -> Callable[[int], object]:
        return lambda number: work(made[number, n], n)

    seconds = in_turns({str(n): side(n) for n in sizes}, repeats)
    first = seconds[str(sizes[0])]
    rows = []
    for n in sizes:
        every = seconds[str(n)]
        cost = statistics.median(every) / statistics.median(first)
        rounds = [one / other for one, other in zip(every, first, strict=True)]
        rows.append(
            Cost(
                work=name,
                inputs=inputs,
                n=n,
                cost=cost,
                spread=(min(rounds), max(rounds)),
                per_candidate=cost / n,
                seconds=tuple(every),
            )
        )
    return rows


def measure(given: argparse.Namespace, checkpoint: Path) -> Report:
    """Every kind of work at every n."""
    caption, image = CaptionSettings(), ImageSettings(steps=given.image_steps, guidance=given.guidance)
    sizes = sorted({1, *given.sizes})
    rows: list[Cost] = []
    with Engine(checkpoint, dtype=given.dtype) as engine:
        source = random_work(engine) if given.shape else shapes_world(engine)
        for name, work in works(engine, caption, image).items():
            count = given.prompts if name == "images" else given.images
            found = costs(name, work, source, count, sizes, given.repeats, given.seed)
            print("\n".join(map(line, found)), flush=True)
            rows += found
    return Report(
        machine=machine(),
        model=given.shape or str(given.model.name),
        repeats=given.repeats,
        seed=given.seed,
        settings={"caption": caption, "image": image, "dtype": given.dtype, "layers": given.layers},
        rows=tuple(rows),
    )


def line(row: Cost) -> str:
    """A cost in one line."""
    return (
        f"{row.work:12} {row.inputs:3} inputs  n = {row.n:2}  {statistics.median(row.seconds):8.3f} s"
        f"  cost {row.cost:6.2f} ({row.spread[0]:.2f} to {row.spread[1]:.2f})"
        f"  {row.per_candidate:5.2f} a candidate"
    )


def main() -> None:
    """Prints the table, writes the JSON, and draws the plot beside it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=SHOWO_SHAPES)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="", help="a random model instead")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--images", type=int, default=32, help="images in flight")
    parser.add_argument("--prompts", type=int, default=4, help="prompts in flight")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--image-steps", type=int, default=ImageSettings().steps)
    parser.add_argument("--guidance", type=float, default=ImageSettings().guidance)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path("runs/bench/candidates.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = given.model
        if given.shape:
            checkpoint = make(Path(scratch), given.shape, getattr(torch, given.dtype), given.layers)
        report = measure(given, checkpoint)
    write_file(given.to, msgspec.json.format(msgspec.json.encode(report)))
    curves = {name: [row for row in report.rows if row.work == name] for name in _names(report)}
    draw({name: [(row.n, row.cost, row.spread) for row in rows] for name, rows in curves.items()}, given.to)
    print(f"written to {given.to}, with its plot as .png and .svg")


def _names(report: Report) -> list[str]:
    return list(dict.fromkeys(row.work for row in report.rows))


if __name__ == "__main__":
    main()
