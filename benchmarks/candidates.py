"""What n candidates cost: all in one call against one call each, same seeds, same samples, in one run.

Prints a table and writes JSON. Ratios are the result; the seconds behind them belong to the machine. Each
side is timed several times in turn, after a warm-up, and the medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from curate.shapes import world
from curate.shapes.scene import render
from curate.store import write_file
from engine.checkpoints import SHOWO_SHAPES
from engine.records import Answer, CaptionSettings, ImageTokens, PaintSettings, Question, Record
from engine.vllm_engine import Engine

SEED = 0


class Row(Record):
    """One kind of work, both ways."""

    work: str
    samples: int
    together_seconds: float
    one_by_one_seconds: float
    ratio: float
    """one by one / together: how many times cheaper a candidate is in company."""
    same_samples: bool


def _timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def compare(
    name: str, samples: int, together: Callable[[], object], alone: Callable[[], object], repeats: int
) -> Row:
    """Times both sides in turn; the results must be equal for the row to be comparable."""
    first, second = together(), alone()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        times[0].append(_timed(together)[0])
        times[1].append(_timed(alone)[0])
    seconds = [statistics.median(one) for one in times]
    return Row(
        work=name,
        samples=samples,
        together_seconds=seconds[0],
        one_by_one_seconds=seconds[1],
        ratio=seconds[1] / seconds[0],
        same_samples=first == second,
    )


def measure(engine: Engine, items: int, n: int, repeats: int) -> list[Row]:
    """Captions, images and answers of some items of the embedded world."""
    drawn = [world.item("evaluation", 77, index) for index in range(items)]
    images = engine.encode(np.stack([render(scene) for _, scene in drawn]))
    keys = [item.id for item, _ in drawn]
    prompts = [item.caption for item, _ in drawn]
    questions = [item.questions for item, _ in drawn]
    caption, paint = CaptionSettings(), PaintSettings()

    def captions_alone() -> list[list[str]]:
        # Candidate i has a seed of its own, so asking for i + 1 and keeping the last one would do extra
        # work; a key of its own for each candidate keeps the work equal.
        return [
            [engine.caption([image], [f"{key}/{i}"], SEED, [caption])[0][0].text for i in range(n)]
            for image, key in zip(images, keys, strict=True)
        ]

    def captions_together() -> list[list[str]]:
        found = engine.caption(
            [image for image in images for _ in range(n)],
            [f"{key}/{i}" for key in keys for i in range(n)],
            SEED,
            [caption],
        )
        return _folded([one[0].text for one in found], n)

    def paint_alone() -> list[list[tuple[int, ...]]]:
        return [
            [engine.paint([prompt], 1, [f"{key}/{i}"], SEED, paint)[0][0].codes for i in range(n)]
            for prompt, key in zip(prompts, keys, strict=True)
        ]

    def paint_together() -> list[list[tuple[int, ...]]]:
        found = engine.paint(
            [prompt for prompt in prompts for _ in range(n)],
            1,
            [f"{key}/{i}" for key in keys for i in range(n)],
            SEED,
            paint,
        )
        return _folded([one[0].codes for one in found], n)

    def answers_alone() -> list[list[Answer]]:
        return [
            [engine.answer([image], [[question]])[0][0] for question in asked]
            for image, asked in zip(images, questions, strict=True)
        ]

    rows = [
        compare("captions", items * n, captions_together, captions_alone, repeats),
        compare("images", items * n, paint_together, paint_alone, repeats),
    ]
    total = sum(map(len, questions))
    rows.append(
        compare("answers", total, lambda: _answers(engine, images, questions), answers_alone, repeats)
    )
    return rows


def _answers(
    engine: Engine, images: Sequence[ImageTokens], questions: Sequence[Sequence[Question]]
) -> list[list[Answer]]:
    return engine.answer(images, questions)


def _folded(flat: Sequence, n: int) -> list[list]:
    return [list(flat[i : i + n]) for i in range(0, len(flat), n)]


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=4)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, default=SHOWO_SHAPES)
    parser.add_argument("--to", type=Path, default=Path("runs/bench/candidates.json"))
    given = parser.parse_args()
    with Engine(given.model) as engine:
        rows = measure(engine, given.items, given.n, given.repeats)
    print(f"{'work':10} {'samples':>8} {'together':>10} {'one by one':>12} {'ratio':>7}  same samples")
    for row in rows:
        print(
            f"{row.work:10} {row.samples:8} {row.together_seconds:9.2f}s {row.one_by_one_seconds:11.2f}s "
            f"{row.ratio:6.1f}x  {row.same_samples}"
        )
    write_file(given.to, msgspec.json.format(msgspec.json.encode(rows)))
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
