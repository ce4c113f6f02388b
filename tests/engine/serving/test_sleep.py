"""An engine that sleeps gives memory back, costs no time, and serves afterwards what it served before."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CheckpointError, EngineError
from engine.files.layout import WEIGHTS
from engine.records import CaptionSettings, ImageSettings, ImageTokens
from engine.serving.sleep import available, give_back

pytest.importorskip("vllm")

if TYPE_CHECKING:
    from engine.serving.engine import Engine

PAGED = CaptionSettings(temperature=0.0, max_tokens=12)


@pytest.fixture
def engine(paged_engine: Engine) -> Engine:
    """One whose captions need the keys and values that a sleep gives back."""
    return paged_engine


def outputs(engine: Engine, images: list[ImageTokens]) -> tuple[object, ...]:
    keys = [str(i) for i in range(len(images))]
    return (
        engine.caption(images, keys, 0, [PAGED]),
        engine.score(images[:2], ["a red circle", "two"]),
        engine.generate_images(["a red circle"], 2, ["x"], 1, ImageSettings(steps=4)),
    )


def resident_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.parametrize("level", [1, 2])
def test_an_engine_serves_after_its_sleep_what_it_served_before(
    engine: Engine, images: list[ImageTokens], level: int
) -> None:
    before = outputs(engine, images)
    found = (engine.version, engine.fingerprint)
    with engine.asleep(level):
        for call in (lambda: outputs(engine, images), lambda: engine.sleep(1)):
            with pytest.raises(EngineError, match="asleep; wake it first"):
                call()
    assert outputs(engine, images) == before
    assert (engine.version, engine.fingerprint) == found
    engine.wake()
    assert outputs(engine, images) == before


def test_a_swap_after_a_deep_sleep_serves_the_new_weights(
    engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens]
) -> None:
    before = outputs(engine, images)
    engine.swap(checkpoints[1])
    wanted = outputs(engine, images)
    engine.swap(checkpoints[0])
    with engine.asleep(2), pytest.raises(EngineError, match="asleep; wake it first"):
        engine.swap(checkpoints[1])
    engine.swap(checkpoints[1])
    assert outputs(engine, images) == wanted
    engine.swap(checkpoints[0])
    assert outputs(engine, images) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU sleep is vLLM's own")
def test_pages_of_keys_and_values_are_given_back_and_read_as_zeros(engine: Engine) -> None:
    worker = engine.server.llm.collective_rpc(lambda one: one)[0]
    cache = worker.model_runner.kv_caches[0]
    size = cache.untyped_storage().nbytes() / 2**20
    whole = torch.empty(0, dtype=torch.uint8).set_(cache.untyped_storage())
    whole.fill_(1)
    full = resident_mib()
    with engine.asleep(1):
        assert full - resident_mib() > 0.9 * size
    assert int(whole.count_nonzero()) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU sleep is vLLM's own")
def test_a_deep_sleep_drops_the_weights(engine: Engine) -> None:
    worker = engine.server.llm.collective_rpc(lambda one: one)[0]
    model = worker.model_runner.get_model()
    assert sum(parameter.numel() for parameter in model.parameters()) > 0
    with engine.asleep(2):
        assert sum(parameter.numel() for parameter in model.parameters()) == 0
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


def test_an_engine_whose_checkpoint_changed_while_it_slept_sleeps_on(
    engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    before = outputs(engine, images)
    served = tmp_path / "served"
    shutil.copytree(checkpoints[0], served)
    engine.swap(served)
    engine.sleep(2)
    shutil.copyfile(checkpoints[1] / WEIGHTS, served / WEIGHTS)
    with pytest.raises(CheckpointError, match="served from it when the engine went to sleep"):
        engine.wake()
    with pytest.raises(EngineError, match="asleep; wake it first"):
        outputs(engine, images)
    shutil.copyfile(checkpoints[0] / WEIGHTS, served / WEIGHTS)
    engine.wake()
    assert outputs(engine, images) == before
    engine.swap(checkpoints[0])


class PooledLlm:
    """An engine's vLLM as it is on a GPU, where its own sleep has the memory; keeps what it is told."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(enable_sleep_mode=True),
            vllm_config=SimpleNamespace(device_config=SimpleNamespace(device_type="cuda")),
            reset_encoder_cache=llm.llm_engine.reset_encoder_cache,
            has_unfinished_requests=llm.llm_engine.has_unfinished_requests,
        )
        self.told: list[str] = []
        self.full = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def collective_rpc(self, method: str, **more: Any) -> Any:
        self.told.append(method)
        return self._llm.collective_rpc(method, **more)

    def reset_prefix_cache(self) -> bool:
        self.told.append("reset")
        return self._llm.reset_prefix_cache()

    def sleep(self, level: int) -> None:
        self.told.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.told += tags
        if self.full and tags == ["kv_cache"]:
            raise RuntimeError("CUDA Error: out of memory")


@pytest.fixture
def pooled(engine: Engine) -> Iterator[PooledLlm]:
    llm = engine.server.llm
    engine.server.llm = stand_in = PooledLlm(llm)
    yield stand_in
    engine.server.llm = llm


LOAD = ["hermes_stage", "reset", "hermes_exchange", "hermes_settle"]


@pytest.mark.parametrize("level", [1, 2])
def test_on_a_gpu_vllms_sleep_gives_memory_back_after_all_that_it_does_not_know(
    engine: Engine, images: list[ImageTokens], pooled: PooledLlm, level: int
) -> None:
    before = outputs(engine, images)
    pooled.told = []
    with engine.asleep(level):
        assert pooled.told == ["reset", "hermes_forget", f"sleep {level}"]
        pooled.told = []
    assert pooled.told == ["weights", *(LOAD if level == 2 else []), "kv_cache", "reset"]
    assert outputs(engine, images) == before


def test_an_engine_that_finds_its_memory_taken_sleeps_on_and_can_be_woken_later(
    engine: Engine, images: list[ImageTokens], pooled: PooledLlm
) -> None:
    before = outputs(engine, images)
    engine.sleep(2)
    pooled.full = True
    with pytest.raises(EngineError, match=r"waking failed: .*out of memory"):
        engine.wake()
    with pytest.raises(EngineError, match="asleep; wake it first"):
        outputs(engine, images)
    pooled.full = False
    engine.wake()
    assert outputs(engine, images) == before


def test_a_second_engine_on_a_gpu_says_that_it_cannot_sleep_and_serves_on(
    engine: Engine, images: list[ImageTokens], pooled: PooledLlm
) -> None:
    before = outputs(engine, images)
    pooled.llm_engine.model_config.enable_sleep_mode = False
    with pytest.raises(EngineError, match=r"cannot sleep: another engine of this process"):
        engine.sleep(1)
    assert outputs(engine, images) == before
    assert not available(), "a CPU has no such sleep"


def test_there_are_two_levels_of_sleep_and_none_beside_them(
    engine: Engine, images: list[ImageTokens]
) -> None:
    with pytest.raises(EngineError, match=r"sleep level 3 is not one of \(1, 2\)"):
        engine.sleep(3)
    with engine.asleep(0):
        assert outputs(engine, images)


@given(st.integers(0, 5000), st.integers(0, 20000))
def test_what_lies_beside_the_given_memory_is_left_alone(start: int, size: int) -> None:
    around = bytearray(b"\1" * (1 << 15))
    part = torch.frombuffer(around, dtype=torch.uint8, count=size, offset=start) if size else torch.empty(0)
    give_back([part])
    assert around[:start].count(0) == around[start + size :].count(0) == 0
    assert around[start : start + size].count(0) in (0, size)


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def cpu_seconds(wait: Callable[[float], None]) -> float:
    """What this process computes while a second passes."""
    start = time.process_time()
    wait(1)
    return time.process_time() - start


def test_an_idle_engine_does_not_spin(engine: Engine, images: list[ImageTokens]) -> None:
    outputs(engine, images)
    time.sleep(0.5)
    with engine.asleep(1):
        # A loaded machine gives a spinning process any part of a second, so that one is the measure.
        assert cpu_seconds(time.sleep) < cpu_seconds(spin) / 4
