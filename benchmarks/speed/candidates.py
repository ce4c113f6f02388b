"""What n candidates cost beside one: captions, images, answers on one engine. Ratios are cost(n) / cost(1).

An image's captions, and the questions about it, share its prefix; a prompt's images share its text. All
inputs of a call are in flight together, and each call has inputs of its own, made before the clock starts,
so that nothing is found in a cache.

`answers` and `answers, drafts` are n questions about each image: decoded free text, and the engine's own way
to the same free text, which reads the choices first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.speed import bench
from benchmarks.speed.bench import Side, Timing
from curate.shapes import world
from curate.shapes.scene import render
from engine.files.layout import EMBEDDED_MODEL
from engine.records import AnswerSettings, CaptionSettings, ImageSettings, ImageTokens, Question, Record
from engine.serving.engine import Engine

MOST_QUESTIONS = 64


class CandidateSettings(Record):
    """How much work."""

    model: Path = EMBEDDED_MODEL
    """A checkpoint whose tokenizers know the embedded world."""
    images: int = 32
    """Images in flight."""
    prompts: int = 4
    """Prompts in flight."""
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    steps: int = ImageSettings().steps
    repeats: int = 3


class Inputs(NamedTuple):
    """What one call is given; `questions` are distinct, for all images alike."""

    images: list[ImageTokens]
    prompts: list[str]
    questions: list[Question]
    keys: list[str]


Call = Callable[[Inputs, int], object]
"""What is done with inputs, n candidates each."""


def world_inputs(engine: Engine, count: int, seed: int) -> Inputs:
    """Items of the embedded world that no other seed gives."""
    drawn = [world.item("evaluation", seed, index) for index in range(max(count, 16))]
    items = [item for item, _ in drawn]
    pool = {question.question: question for item in items for question in item.questions}
    return Inputs(
        images=engine.encode(np.stack([render(scene) for _, scene in drawn[:count]])),
        prompts=[item.caption for item in items[:count]],
        questions=list(pool.values())[:MOST_QUESTIONS],
        keys=[item.id for item in items[:count]],
    )


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


def _side(call: Call, made: Mapping[tuple[int, int], Inputs], n: int) -> Side:
    return Side(lambda number: call(made[number, n], n))


def measure(given: CandidateSettings) -> Iterator[Timing]:
    """Every kind of work at every n, in turns, after a warm-up round."""
    sizes = sorted({1, *given.sizes})
    generate = ImageSettings(steps=given.steps)
    with Engine(given.model) as engine:
        for work, call in calls(engine, CaptionSettings(), generate).items():
            count = given.prompts if work == "images" else given.images
            made = {
                (number, n): world_inputs(engine, count, 1000 * number + n)
                for number in range(given.repeats + 1)
                for n in sizes
            }
            sides = {f"n = {n}": _side(call, made, n) for n in sizes}
            yield from bench.contest(work, sides, given.repeats)


if __name__ == "__main__":
    bench.run("candidates", __doc__, CandidateSettings(), measure)
