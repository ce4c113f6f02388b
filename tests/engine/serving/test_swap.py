"""Swaps on real vLLM, and all the ways in which one can fail."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.checkpoints.swap_probe import PROBES, Probe, ProbeSet, fixed_captions
from engine.checkpoints.weights import load_config, load_model, save_state
from engine.errors import CheckpointError, EngineError
from engine.files.layout import WEIGHTS
from engine.models.masks import mmu_mask
from engine.records import CaptionSettings, ImageSettings, ImageTokens
from engine.serving.exclusive import ExclusiveAccess
from engine.tokenizers.text import TextTokenizer

pytest.importorskip("vllm")

from engine.serving.reload import change_places

if TYPE_CHECKING:
    from engine.serving.engine import Engine

GREEDY = CaptionSettings(temperature=0.0, max_tokens=12)


def outputs(engine: Engine, images: list[ImageTokens]) -> tuple[object, ...]:
    keys = [str(i) for i in range(len(images))]
    return (
        engine.caption(images, keys, 0, [GREEDY]),
        engine.score(images[:2], ["a red circle", "two"]),
        engine.generate_images(["a red circle"], 2, ["x"], 1, ImageSettings(steps=4)),
    )


@contextmanager
def unchanged(engine: Engine, images: list[ImageTokens]) -> Iterator[None]:
    """Whatever happens in the block, the engine gives afterwards what it gave before."""
    before = (outputs(engine, images), engine.version, engine.fingerprint)
    yield
    assert (outputs(engine, images), engine.version, engine.fingerprint) == before


def with_probes(folder: Path, weights: Path, trained: Path) -> Path:
    """A checkpoint of some weights with the log-probs that another one's model gave."""
    save_state(load_file(weights / WEIGHTS), load_config(weights), folder)
    model = load_model(trained)
    probes = []
    for codes, ids in fixed_captions(model.config):
        words = model.config.vocabulary
        text = TextTokenizer.load(trained / "tokenizer.json").encode(model.config.caption_prompt)
        prompt, tail = words.mmu_prompt(codes, text), [*ids, words.eos]
        row = torch.tensor([[*prompt, *tail]])
        with torch.no_grad():
            logp = model.head(model(row, mmu_mask(row, words.eoi))).log_softmax(-1)[0]
        probes.append(
            Probe(codes, ids, sum(logp[len(prompt) - 1 + i, one].item() for i, one in enumerate(tail)))
        )
    (folder / PROBES).write_bytes(msgspec.json.encode(ProbeSet(dtype="float32", probes=tuple(probes))))
    return folder


class Meddling:
    """An engine's vLLM that does a test's deed before one of the workers' methods."""

    def __init__(self, llm: Any, method: str, deed: Callable[[], None]) -> None:
        self._llm, self._method, self._deed = llm, method, deed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def collective_rpc(self, method: str, **more: Any) -> Any:
        if method == self._method:
            self._deed()
        return self._llm.collective_rpc(method, **more)


@contextmanager
def before(engine: Engine, method: str, deed: Callable[[], None]) -> Iterator[None]:
    """Has a deed done before each of the engine's calls of a worker method in the block."""
    llm = engine.server.llm
    engine.server.llm = Meddling(llm, method, deed)
    try:
        yield
    finally:
        engine.server.llm = llm


class Full(TorchDispatchMode):
    """A device on which so many tensors can be made by copying, and no more."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.ops.aten.clone.default, torch.ops.aten.cat.default):
            if self.room == 0:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.\nSee ...")
            self.room -= 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("room", [0, 3, 12])
def test_where_the_memory_ends_while_weights_are_laid_out_the_old_ones_serve_on(
    paged_engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], room: int
) -> None:
    said = r"still serve: the device's memory ran out \(CUDA out.* 2\.00 MiB\); lower engine\.kv_cache_gib"
    with unchanged(paged_engine, images), pytest.raises(EngineError, match=said), Full(room):
        paged_engine.swap(checkpoints[1])


def test_a_file_that_is_cut_short_after_the_check_changes_nothing(
    paged_engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    save_state(load_file(checkpoints[1] / WEIGHTS), load_config(checkpoints[1]), tmp_path)
    path = tmp_path / WEIGHTS
    whole = path.read_bytes()
    with (
        unchanged(paged_engine, images),
        before(paged_engine, "hermes_stage", lambda: os.truncate(path, len(whole) // 2)),
        pytest.raises(EngineError, match=r"loading failed, .* still serve: SafetensorError"),
    ):
        paged_engine.swap(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_also_without_probes(
    engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path, bad: float
) -> None:
    folder = with_probes(tmp_path, checkpoints[1], checkpoints[1])
    state = load_file(folder / WEIGHTS)
    state["showo.model.final_layernorm.weight"][0] = bad
    save_state(state, load_config(folder), folder)
    (folder / PROBES).unlink()
    said = "showo.model.final_layernorm.weight holds NaN or infinite numbers"
    with unchanged(engine, images), pytest.raises(CheckpointError, match=said):
        engine.swap(folder)


def test_no_engine_starts_on_weights_that_are_no_numbers(
    clip_checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    from engine.serving.engine import Engine

    folder = shutil.copytree(clip_checkpoints[0], tmp_path / "clip")
    state = load_file(folder / WEIGHTS)
    state["mm_projector.0.bias"][-1] = float("inf")
    save_state(state, load_config(folder), folder)
    with pytest.raises(CheckpointError, match=r"mm_projector\.0\.bias holds NaN or infinite numbers"):
        Engine(folder, kv_cache_gib=0.125)


def test_what_serves_does_not_lie_in_the_file_that_it_came_from(
    engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    save_state(load_file(checkpoints[0] / WEIGHTS), load_config(checkpoints[0]), tmp_path)
    before = outputs(engine, images)
    engine.swap(tmp_path)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    path = tmp_path / WEIGHTS
    with path.open("r+b") as stream:
        stream.write(b"\0" * path.stat().st_size)
    assert outputs(engine, images) == before
    engine.swap(checkpoints[0])


def test_calls_and_swaps_keep_out_of_each_others_way(
    paged_engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens]
) -> None:
    """Both are tried from another thread, while a swap lays out its weights."""
    refused: list[str] = []

    def tries() -> None:
        calls: list[Callable[[], object]] = [
            lambda: outputs(paged_engine, images),
            lambda: paged_engine.score(images[:1], ["a red circle"]),
            lambda: paged_engine.swap(checkpoints[0]),
            lambda: paged_engine.sleep(),
        ]
        for call in calls:
            with pytest.raises(EngineError) as error:
                call()
            refused.append(str(error.value))

    def meanwhile() -> None:
        other = threading.Thread(target=tries)
        other.start()
        other.join()

    with before(paged_engine, "hermes_stage", meanwhile):
        paged_engine.swap(checkpoints[1])
    assert len(refused) == 4
    assert all("a swap is under way" in one for one in refused)
    paged_engine.swap(checkpoints[0])


def test_a_swap_is_refused_while_a_call_is_in_flight() -> None:
    access = ExclusiveAccess()
    with (
        access.call(),
        access.call(),
        pytest.raises(EngineError, match="with 2 calls in flight"),
        access.alone("it"),
    ):
        pass
    with access.alone("it"), pytest.raises(EngineError, match="it is under way"), access.call():
        pass
    with access.alone("another"), pytest.raises(EngineError, match="while another is"), access.alone("it"):
        pass
    with access.call():
        pass


class Stubborn(nn.Module):
    """Takes a new weight so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.left = times

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and hasattr(self, "left"):
            if self.left == 0:
                raise RuntimeError("this weight does not move")
            self.left -= 1
        super().__setattr__(name, value)


def test_an_exchange_that_fails_half_way_is_undone() -> None:
    modules = [nn.Linear(1, 1), nn.Linear(1, 1), Stubborn(0)]
    fresh = [nn.Linear(1, 1), nn.Linear(1, 1), Stubborn(5)]
    before = [parameter for module in modules for parameter in module.parameters()]
    with pytest.raises(RuntimeError, match="does not move"):
        change_places(list(zip(modules, fresh, strict=True)))
    assert all(
        one is other for one, other in zip(before, (p for m in modules for p in m.parameters()), strict=True)
    )


@contextmanager
def staged_with(engine: Engine, times: int) -> Iterator[None]:
    """Swaps in the block lay out a module more, whose weight moves so many times."""

    def spoil() -> None:
        worker = engine.server.llm.collective_rpc(lambda one: one)[0]
        worker._staged.append((Stubborn(times), nn.Linear(1, 1, bias=False)))

    with before(engine, "hermes_exchange", spoil):
        yield


def test_a_worker_that_cannot_exchange_serves_on_with_the_old_weights(
    paged_engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens]
) -> None:
    said = r"still serve: .*does not move"
    with (
        unchanged(paged_engine, images),
        staged_with(paged_engine, 0),
        pytest.raises(EngineError, match=said),
    ):
        paged_engine.swap(checkpoints[1])


def test_an_engine_that_cannot_get_its_old_weights_back_serves_nothing_more(
    checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    from engine.serving.engine import Engine

    refused = with_probes(tmp_path / "refused", checkpoints[1], checkpoints[0])
    with Engine(checkpoints[0], kv_cache_gib=0.125) as engine:
        with (
            staged_with(engine, 1),
            pytest.raises(EngineError, match=r"could not be undone: .*does not move"),
        ):
            engine.swap(refused)
        with pytest.raises(EngineError, match="could not be undone; start a new engine"):
            engine.caption(images[:1], ["x"], 0, [GREEDY])
        assert engine.version == 0
