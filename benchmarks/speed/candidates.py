"""What n candidates cost beside one: captions, images, answers on one engine. Ratios are cost(n) / cost(1).

An image's captions, and the questions about it, share its prefix; a prompt's images share its text. All
inputs of a call are in flight together, and each call has inputs of its own, made before the clock starts,
so that nothing is found in a cache.

`answers` and `answers, drafts` are n questions about each image: decoded free text, and the engine's own way
to the same free text, which reads the choices first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from benchmarks.speed import bench, workload
from benchmarks.speed.bench import Side, Timing
from benchmarks.speed.model_sizes import make
from curate.shapes import world
from curate.shapes.scene import render
from engine.files.layout import EMBEDDED_MODEL
from engine.records import AnswerSettings, CaptionSettings, ImageSettings, ImageTokens, Question, Record
from engine.serving.engine import Engine

MOST_QUESTIONS = 64
PAINT = ImageSettings()


class CandidateSettings(Record):
    """How much work."""

    model: Path = EMBEDDED_MODEL
    """The checkpoint, where no shape is named."""
    shape: str = ""
    """Of a random checkpoint."""
    layers: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    images: int = 32
    """Images in flight."""
    prompts: int = 4
    """Prompts in flight."""
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    steps: int = PAINT.steps
    guidance: float = PAINT.guidance
    repeats: int = 3
    seed: int = 0


class Inputs(NamedTuple):
    """What one call is given; `questions` are distinct, for all images alike."""

    images: list[ImageTokens]
    prompts: list[str]
    questions: list[Question]
    keys: list[str]


InputSource = Callable[[int, int], Inputs]
"""(how many, seed) -> inputs that no other seed gives."""
Call = Callable[[Inputs, int], object]
"""What is done with inputs, n candidates each."""


def world_inputs(engine: Engine) -> InputSource:
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


def random_inputs(engine: Engine) -> InputSource:
    """Random images and words, for a random checkpoint."""

    def source(count: int, seed: int) -> Inputs:
        return Inputs(
            images=workload.images(engine.config, count, seed),
            prompts=workload.prompts(count, seed),
            questions=workload.questions(1, MOST_QUESTIONS, seed)[0],
            keys=[f"{seed}/{i}" for i in range(count)],
        )

    return source


def calls(engine: Engine, caption: CaptionSettings, image: ImageSettings) -> dict[str, Call]:
    """Every kind of work."""

    def answers(settings: AnswerSettings) -> Call:
        return lambda given, n: engine.answer(
            given.images, [given.questions[:n]] * len(given.images), settings
        )

    return {
        "captions": lambda given, n: engine.caption(given.images, given.keys, 0, [caption] * n),
        "images": lambda given, n: engine.generate_images(given.prompts, n, given.keys, 0, image),
        "answers": answers(AnswerSettings(drafts=False)),
        "answers, drafts": answers(AnswerSettings()),
    }


def costs(
    work: str, call: Call, source: InputSource, inputs: int, sizes: Sequence[int], repeats: int, seed: int
) -> list[Timing]:
    """One kind of work at every n, in turns, after a warm-up round."""
    made = {
        (number, n): source(inputs, seed + 1000 * number + n) for number in range(repeats + 1) for n in sizes
    }

    def side(n: int) -> Side:
        return Side(lambda number: call(made[number, n], n))

    sides = {f"n = {n}": side(n) for n in sizes}
    return bench.contest(work, sides, repeats)


def measure(given: CandidateSettings) -> Iterator[Timing]:
    """Every kind of work at every n."""
    generate = ImageSettings(steps=given.steps, guidance=given.guidance)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = given.model
        if given.shape:
            checkpoint = make(Path(scratch), given.shape, getattr(torch, given.dtype), given.layers)
        with Engine(checkpoint, dtype=given.dtype) as engine:
            source = random_inputs(engine) if given.shape else world_inputs(engine)
            for work, call in calls(engine, CaptionSettings(), generate).items():
                count = given.prompts if work == "images" else given.images
                sizes = sorted({1, *given.sizes})
                yield from costs(work, call, source, count, sizes, given.repeats, given.seed)


if __name__ == "__main__":
    bench.run("candidates", __doc__, CandidateSettings(), measure)
