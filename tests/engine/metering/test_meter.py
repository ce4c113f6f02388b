"""Counters of an engine's work, alone and in a real engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.metering.counters import EngineWork, Meter, PathWork
from engine.metering.stopwatch import ForwardClock
from engine.records import AnswerSettings, CaptionSettings, ImageSettings, ImageTokens, Question

if TYPE_CHECKING:
    from engine.serving.engine import Engine


def test_a_clock_counts_nested_use_once_and_stops_on_errors() -> None:
    clock = ForwardClock()

    def work() -> None:
        with clock:
            with clock:
                time.sleep(0.01)
            time.sleep(0.01)
            raise ValueError("x")

    start = time.perf_counter()
    with pytest.raises(ValueError, match="x"):
        work()
    passed = time.perf_counter() - start
    assert 0.02 <= clock.seconds <= passed
    held = clock.seconds
    time.sleep(0.01)
    assert clock.seconds == held


class Event:
    """A moment of a GPU that works while the host goes on."""

    def __init__(self, gpu: dict[str, float]) -> None:
        self._gpu, self._at = gpu, gpu["asked"]

    def synchronize(self) -> None:
        self._gpu["done"] = max(self._gpu["done"], self._at)

    def elapsed_time(self, end_event: Event) -> float:
        assert end_event._at <= self._gpu["done"], "asked for before the GPU was there"
        return 1000 * (end_event._at - self._at)


def test_a_clock_counts_a_gpus_time_and_waits_for_it_only_when_read() -> None:
    gpu = {"asked": 0.0, "done": 0.0}
    clock = ForwardClock(lambda: Event(gpu))
    for _ in range(2):
        with clock:
            gpu["asked"] += 2.5
            with clock:
                gpu["asked"] += 0.5
        gpu["asked"] += 10.0
    assert gpu["done"] == 0.0
    assert clock.seconds == clock.seconds == 6.0
    assert gpu["done"] == 16.0


def test_calls_add_up_by_path_and_a_failed_one_counts_its_time() -> None:
    counts = iter(
        EngineWork(forward_seconds=seconds, decode_steps=steps, decoded_rows=rows)
        for seconds, steps, rows in ((0.0, 0, 0), (1.0, 2, 6), (5.0, 2, 6), (7.0, 3, 10))
    )
    meter = Meter(lambda: next(counts))
    with meter.call("captions") as tally:
        tally.samples, tally.tokens = 3, 30
    before = meter.work
    with pytest.raises(KeyError), meter.call("images"):
        raise KeyError
    meter.prompts(100, 25)
    work = meter.work
    assert (work.captions.samples, work.captions.tokens, work.images.samples) == (3, 30, 0)
    assert work.images.seconds > 0
    # What the worker did between the calls belongs to neither.
    assert work.forward_seconds == 3.0
    assert (work.decode_steps, work.decoded_rows, work.mean_batch) == (3, 10, pytest.approx(10 / 3))
    assert work.prefix_hit_rate == 0.25
    after = work.since(before)
    assert (after.captions, after.forward_seconds, after.prompt_tokens) == (PathWork(), 2.0, 100)


def test_nothing_done_has_rates_of_zero() -> None:
    work = EngineWork()
    rates = (work.prefix_hit_rate, work.mean_batch, work.captions.tokens_per_second)
    assert (*rates, work.images.samples_per_second) == (0, 0, 0, 0)


@pytest.mark.parametrize(("served", "shared"), [("paged_engine", 32), ("engine", 42)])
def test_an_engine_counts_what_it_gave(
    request: pytest.FixtureRequest, images: list[ImageTokens], served: str, shared: int
) -> None:
    """Three of four candidates share a prompt: its whole blocks, or all of its 42 tokens."""
    engine: Engine = request.getfixturevalue(served)
    engine.server.reset_caches()
    before = engine.work
    keys = [f"k{i}" for i in range(len(images))]
    captions = engine.caption(images, keys, 0, [CaptionSettings(max_tokens=12)] * 4)
    generated = engine.generate_images(["a red circle"], 3, ["x"], 0, ImageSettings(steps=4))
    question = Question(question="what color is the circle?", choices=("red", "blue"), answer="red", kind="")
    engine.answer(images[:2], [[question], [question] * 2], AnswerSettings(mode="likelihood"))
    engine.decode([image.codes for row in generated for image in row])
    done = engine.work.since(before)
    assert done.captions.samples == 4 * len(images)
    assert done.captions.tokens == sum(len(one.logprobs) for row in captions for one in row)
    assert (done.images.samples, done.images.tokens) == (3, 3 * 36)
    assert (done.answers.samples, done.pixels.samples) == (3, 3)
    assert 0 < done.forward_seconds < done.seconds
    # Prompts with a question have 46 tokens; the two about one image share all but the last.
    assert done.prompt_tokens == 4 * len(images) * 42 + 3 * 46
    assert done.cached_tokens == 3 * len(images) * shared + 45
    assert done.decoded_rows == done.captions.tokens
    assert np.isclose(done.mean_batch, done.decoded_rows / done.decode_steps)
