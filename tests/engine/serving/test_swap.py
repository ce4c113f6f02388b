"""Swaps on real vLLM by every transport that runs here, and all the ways in which one can fail."""

from __future__ import annotations

import os
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

from engine.checkpoints.swap_probe import CANARY, Canaries, Canary, fixed_captions
from engine.checkpoints.weights import fingerprint, load_config, load_model, save_state
from engine.errors import CheckpointError, EngineError
from engine.files.layout import WEIGHTS
from engine.models.masks import mmu_mask
from engine.records import CaptionSettings, ImageTokens, PaintSettings
from engine.serving.exclusive import Gate
from engine.tokenizers.text import TextTokenizer
from engine.transport.shared import INBOX, offer_weights

pytest.importorskip("vllm")

from file_transfer import NAME, BadSource, FileTrainerInit, register
from vllm.distributed.weight_transfer.base import ModuleSource, VLLMWeightSyncClient, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from engine.serving.reload import change_places

if TYPE_CHECKING:
    from engine.serving.engine import Engine

GREEDY = CaptionSettings(temperature=0.0, max_tokens=12)


def outputs(engine: Engine, images: list[ImageTokens]) -> tuple[object, ...]:
    keys = [str(i) for i in range(len(images))]
    return (
        engine.caption(images, keys, 0, [GREEDY]),
        engine.score(images[:2], ["a red circle", "two"]),
        engine.paint(["a red circle"], 2, ["x"], 1, PaintSettings(steps=4)),
    )


@contextmanager
def unchanged(engine: Engine, images: list[ImageTokens]) -> Iterator[None]:
    """Whatever happens in the block, the engine gives afterwards what it gave before."""
    before = (outputs(engine, images), engine.version, engine.fingerprint)
    yield
    assert (outputs(engine, images), engine.version, engine.fingerprint) == before


def with_canaries(folder: Path, weights: Path, sung: Path) -> Path:
    """A checkpoint of some weights whose canaries another one's model sang."""
    save_state(load_file(weights / WEIGHTS), load_config(weights), folder)
    model = load_model(sung)
    songs = []
    for codes, ids in fixed_captions(model.config):
        words = model.config.vocabulary
        text = TextTokenizer.load(sung / "tokenizer.json").encode(model.config.caption_prompt)
        prompt, tail = words.mmu_prompt(codes, text), [*ids, words.eos]
        row = torch.tensor([[*prompt, *tail]])
        with torch.no_grad():
            logp = model.head(model(row, mmu_mask(row, words.eoi))).log_softmax(-1)[0]
        songs.append(
            Canary(codes, ids, sum(logp[len(prompt) - 1 + i, one].item() for i, one in enumerate(tail)))
        )
    (folder / CANARY).write_bytes(msgspec.json.encode(Canaries(dtype="float32", songs=tuple(songs))))
    return folder


@pytest.fixture(scope="module")
def moved(checkpoints: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that was started for a transport of vLLM's own kind, which moves files; vLLM samples."""
    from engine.serving.engine import Engine

    register()
    with Engine(checkpoints[0], kv_cache_gib=0.125, transport=NAME, sampler="paged") as engine:
        yield engine


def sender(engine: Engine, source: WeightSource, folder: Path) -> Any:
    info = FileTrainerInit(rank=0, folder=str(folder))
    return WeightTransferTrainerFactory.trainer_init(info, client=engine.client(), source=source)


def test_weights_come_through_shared_memory_though_the_disk_has_lost_them(
    checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    from engine.serving.engine import Engine

    later = with_canaries(tmp_path / "later", checkpoints[1], checkpoints[1])
    with Engine(checkpoints[0], kv_cache_gib=0.125, transport="shared") as engine:
        before = outputs(engine, images)
        assert offer_weights(load_file(later / WEIGHTS), later)
        wanted = fingerprint(later)
        (later / WEIGHTS).unlink()
        engine.swap(later)
        assert engine.fingerprint == wanted
        after = outputs(engine, images)
        assert after != before
        assert "hermes-weights" not in Path("/proc/self/maps").read_text(), "shared memory is given back"
        # Nobody offers the first one, so it comes from its folder.
        engine.swap(checkpoints[0])
        assert outputs(engine, images) == before
        refused = with_canaries(tmp_path / "refused", checkpoints[1], checkpoints[0])
        assert offer_weights(load_file(refused / WEIGHTS), refused)
        with unchanged(engine, images), pytest.raises(CheckpointError, match="fixed caption"):
            engine.swap(refused)
        inbox = Path(os.environ[INBOX])
        assert [path.name for path in inbox.iterdir()] == ["owner.lock"]
    assert not inbox.exists()


def test_vllms_own_trainer_and_worker_engines_move_weights_through_a_swap(
    moved: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    assert isinstance(moved.client(), VLLMWeightSyncClient)
    before = outputs(moved, images)
    later = with_canaries(tmp_path / "later", checkpoints[1], checkpoints[1])
    pushed = sender(moved, ModuleSource(load_model(checkpoints[1])), tmp_path)
    moved.swap(later, pushed)
    after = outputs(moved, images)
    assert (after != before, moved.fingerprint) == (True, fingerprint(checkpoints[1]))
    moved.swap(checkpoints[0])
    assert outputs(moved, images) == before
    moved.swap(checkpoints[1])
    assert outputs(moved, images) == after, "files and pushed tensors serve alike"
    moved.swap(checkpoints[0])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("too few announced", "missing showo.lm_head.bias; missing showo.lm_head.weight"),
        ("another shape announced", r"showo\.lm_head\.bias has shape \[3, 3\]"),
        ("another shape sent", r"showo\.lm_head\.bias float32\[3, 3\], announced"),
        ("one is missing", "ended without showo.lm_head.bias"),
        ("dies", "still serve: RuntimeError: the trainer is gone"),
        (
            "no room",
            r"still serve: the device's memory ran out \(CUDA out.* 2\.00 MiB\); lower engine\.kv_cache_gib",
        ),
    ],
)
def test_a_sender_that_goes_wrong_changes_nothing(
    moved: Engine,
    checkpoints: tuple[Path, Path],
    images: list[ImageTokens],
    tmp_path: Path,
    fault: str,
    said: str,
) -> None:
    pushed = sender(moved, BadSource(load_model(checkpoints[1]), fault), tmp_path)
    with unchanged(moved, images), pytest.raises((CheckpointError, EngineError), match=said):
        moved.swap(checkpoints[1], pushed)
    pushed = sender(moved, ModuleSource(load_model(checkpoints[1])), tmp_path)
    with pytest.raises(EngineError, match=r"Engine\.swap alone"):
        pushed.send_weights()


def test_what_was_sent_is_sent_back_where_the_canaries_disagree(
    moved: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    refused = with_canaries(tmp_path / "refused", checkpoints[1], checkpoints[0])
    pushed = sender(moved, ModuleSource(load_model(checkpoints[1])), tmp_path)
    with unchanged(moved, images), pytest.raises(CheckpointError, match="fixed caption"):
        moved.swap(refused, pushed)


def test_weights_that_are_no_numbers_are_sent_back(
    engine: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    folder = with_canaries(tmp_path, checkpoints[1], checkpoints[1])
    state = load_file(folder / WEIGHTS)
    state["showo.model.final_layernorm.weight"][0] = float("nan")
    save_state(state, load_config(folder), folder)
    with unchanged(engine, images), pytest.raises(CheckpointError, match="the log-prob nan"):
        engine.swap(folder)


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
    moved: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    """Both are tried from another thread, while the sender of a swap is sending."""
    refused: list[str] = []

    def tries() -> None:
        calls: list[Callable[[], object]] = [
            lambda: outputs(moved, images),
            lambda: moved.score(images[:1], ["a red circle"]),
            lambda: moved.swap(checkpoints[0]),
            lambda: moved.sleep(),
        ]
        for call in calls:
            with pytest.raises(EngineError) as error:
                call()
            refused.append(str(error.value))

    class Slow(ModuleSource):
        def iter_groups(self) -> Iterator[tuple[list[str], list[torch.Tensor]]]:
            other = threading.Thread(target=tries)
            other.start()
            other.join()
            yield from super().iter_groups()

    moved.swap(checkpoints[1], sender(moved, Slow(load_model(checkpoints[1])), tmp_path))
    assert len(refused) == 4
    assert all("a swap is under way" in one for one in refused)
    moved.swap(checkpoints[0])


def test_a_swap_is_refused_while_a_call_is_in_flight() -> None:
    gate = Gate()
    with (
        gate.call(),
        gate.call(),
        pytest.raises(EngineError, match="with 2 calls in flight"),
        gate.alone("it"),
    ):
        pass
    with gate.alone("it"), pytest.raises(EngineError, match="it is under way"), gate.call():
        pass
    with gate.alone("another"), pytest.raises(EngineError, match="while another is"), gate.alone("it"):
        pass
    with gate.call():
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


def staged_with(engine: Engine, times: int) -> Callable[[], None]:
    """Adds a module to what the worker has laid out aside, whose weight moves so many times."""

    def spoil() -> None:
        worker = engine.server.llm.collective_rpc(lambda one: one)[0]
        worker._staged.append((Stubborn(times), nn.Linear(1, 1, bias=False)))

    return spoil


class Spoilt:
    """A sender that damages what it has sent."""

    def __init__(self, inner: Any, spoil: Callable[[], None]) -> None:
        self.source, self._inner, self._spoil = inner.source, inner, spoil

    def send_weights(self) -> None:
        self._inner.send_weights()
        self._spoil()


def test_a_worker_that_cannot_exchange_serves_on_with_the_old_weights(
    moved: Engine, checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    inner = sender(moved, ModuleSource(load_model(checkpoints[1])), tmp_path)
    spoilt = Spoilt(inner, staged_with(moved, 0))
    with unchanged(moved, images), pytest.raises(EngineError, match=r"still serve: .*does not move"):
        moved.swap(checkpoints[1], spoilt)


def test_an_engine_that_cannot_get_its_old_weights_back_serves_nothing_more(
    checkpoints: tuple[Path, Path], images: list[ImageTokens], tmp_path: Path
) -> None:
    from engine.serving.engine import Engine

    register()
    refused = with_canaries(tmp_path / "refused", checkpoints[1], checkpoints[0])
    with Engine(checkpoints[0], kv_cache_gib=0.125, transport=NAME) as engine:
        inner = sender(engine, ModuleSource(load_model(checkpoints[1])), tmp_path)
        with pytest.raises(EngineError, match=r"could not be undone: .*does not move"):
            engine.swap(refused, Spoilt(inner, staged_with(engine, 1)))
        with pytest.raises(EngineError, match="could not be undone; start a new engine"):
            engine.caption(images[:1], ["x"], 0, [GREEDY])
        assert engine.version == 0


@pytest.mark.parametrize("transport", ["ipc", "nccl"])
def test_transports_between_gpus_are_refused_without_one(
    checkpoints: tuple[Path, Path], transport: str
) -> None:
    from engine.serving.engine import Engine

    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    with pytest.raises(EngineError, match=f"transport {transport} .*set engine.transport to disk or shared"):
        Engine(checkpoints[0], transport=transport)


def test_a_transport_that_nobody_knows_is_refused(checkpoints: tuple[Path, Path]) -> None:
    from engine.serving.engine import Engine

    with pytest.raises(EngineError, match=r"'pigeon' is not known; take disk, shared, or .*ipc.*nccl"):
        Engine(checkpoints[0], transport="pigeon")


def test_a_manifest_is_what_vllms_nccl_and_ipc_updates_take(checkpoints: tuple[Path, Path]) -> None:
    """Their update records check lengths; shapes, types and names are the checkpoint's own."""
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferUpdateInfo
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferUpdateInfo

    from engine.serving.vllm_transport import Client

    calls: list[tuple[object, ...]] = []
    client = Client(lambda *call: calls.append(call))
    state = load_file(checkpoints[0] / WEIGHTS)
    announced = {name: (tuple(one.shape), one.dtype) for name, one in state.items()}
    fields = {
        "names": list(state),
        "dtype_names": [str(one.dtype).removeprefix("torch.") for one in state.values()],
        "shapes": [list(one.shape) for one in state.values()],
    }
    updates = [
        NCCLWeightTransferUpdateInfo(**fields),
        IPCWeightTransferUpdateInfo(**fields, ipc_handles=[{"gpu": ()} for _ in state]),
    ]
    client.init_weight_transfer_engine({"packed": False})
    for update in updates:
        with client.opened(announced):
            client.start_weight_update()
            client.update_weights(vars(update))
            client.finish_weight_update()
    one_swap = ["hermes_begin", "hermes_receive", "hermes_stage_received"]
    assert [call[0] for call in calls] == ["init_weight_transfer_engine", *one_swap, *one_swap]
