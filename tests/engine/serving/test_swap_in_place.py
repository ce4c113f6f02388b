"""Weights that change contents where they lie, as on a GPU, whose graphs and sleep pool hold addresses."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pretended_cuda import pretended_cuda
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.checkpoints.weights import load_model
from engine.errors import CheckpointError
from engine.files.layout import WEIGHTS
from engine.models.masks import mmu_mask
from engine.models.showo import Showo

pytest.importorskip("vllm")

from engine.serving.reload import Prepared, change_places, prepare

if TYPE_CHECKING:
    from engine.serving.engine import Engine


@pytest.fixture
def served(checkpoints: tuple[Path, Path]) -> Showo:
    return load_model(checkpoints[0])


@pytest.fixture
def following(served: Showo, checkpoints: tuple[Path, Path]) -> Prepared:
    return prepare(served, load_file(checkpoints[1] / WEIGHTS), torch.float32)


def values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def logits(model: Showo) -> Tensor:
    ids = torch.arange(12)[None]
    with torch.no_grad():
        return model.head(model(ids, mmu_mask(ids, model.config.vocabulary.eoi)))


def test_who_holds_the_addresses_sees_the_new_weights_and_after_an_undo_the_old_ones(
    served: Showo, following: Prepared, checkpoints: tuple[Path, Path]
) -> None:
    """A captured graph is such a holder: it replays on the memory that it was captured with."""
    graph = [parameter.detach() for parameter in served.parameters()]
    addresses = [parameter.data_ptr() for parameter in served.parameters()]
    before, gave = values(served), logits(served)
    later = load_model(checkpoints[1])
    change_places(following, in_place=True)
    assert same(graph, values(later))
    assert torch.equal(logits(served), logits(later))
    change_places(following, in_place=True)
    assert same(graph, before)
    assert torch.equal(logits(served), gave)
    assert [parameter.data_ptr() for parameter in served.parameters()] == addresses


def test_both_ways_bring_the_same_weights(
    served: Showo, following: Prepared, checkpoints: tuple[Path, Path]
) -> None:
    other = load_model(checkpoints[0])
    change_places(prepare(other, load_file(checkpoints[1] / WEIGHTS), torch.float32))
    change_places(following, in_place=True)
    assert same(values(served), values(other))


class Overlapping(nn.Module):
    """A weight that can be read and not written: its three elements lie in one place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1).expand(3), requires_grad=False)


def test_an_exchange_that_fails_half_way_brings_every_parameter_back(
    served: Showo, following: Prepared
) -> None:
    graph, before = [parameter.detach() for parameter in served.parameters()], values(served)
    fresh = nn.Module()
    fresh.register_parameter("weight", nn.Parameter(torch.ones(3)))
    with pytest.raises(RuntimeError, match="single memory location"):
        change_places([*following, (Overlapping(), fresh)], in_place=True)
    assert same(graph, before)


def test_what_differs_in_shape_type_or_device_is_refused_before_anything_changes(
    served: Showo, following: Prepared
) -> None:
    before = values(served)
    fresh = [module for _, module in following[-3:]]
    # The first two would be copied without a word: the one broadcast, the other cast.
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda weight: weight[:1].clone(),
        lambda weight: weight.bfloat16(),
        lambda weight: weight.to("meta"),
    ]
    for module, change in zip(fresh, changes, strict=True):
        module.weight = nn.Parameter(change(module.get_parameter("weight")))
    said = r"weight is \[1, 128\] .*weight is .* torch.bfloat16 on cpu.*weight is .* on meta, it serves as"
    with pytest.raises(CheckpointError, match=said):
        change_places(following, in_place=True)
    assert same(values(served), before)


class Copies(TorchDispatchMode):
    """Bytes of copies, made here or prepared before, at the worst moment."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__()
        self._alive: list[weakref.ref[Tensor]] = [
            weakref.ref(parameter) for _, fresh in prepared for parameter in fresh.parameters()
        ]
        self.most = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.clone.default:
            kept = [one.nbytes for ref in self._alive if (one := ref()) is not None]
            self.most = max(self.most, sum(kept) + made.nbytes)
        return made


def test_an_exchange_needs_room_for_one_parameter_beside_the_second_copy(
    served: Showo, following: Prepared
) -> None:
    sizes = [parameter.nbytes for parameter in served.parameters()]
    with Copies(following) as copies:
        change_places(following, in_place=True)
    assert max(sizes) <= copies.most <= sum(sizes) + max(sizes)


@contextmanager
def unpacked(engine: Engine, device: str) -> Iterator[Any]:
    """Makes served models of vLLM's layers as a GPU has them: vLLM packs weights for CPUs alone."""
    from vllm.config import set_current_vllm_config

    from engine.serving.model import ShowoForUnifiedGeneration

    found = engine.server.llm.llm_engine.vllm_config
    config = copy.copy(found)
    config.compilation_config = copy.copy(found.compilation_config)

    def make() -> ShowoForUnifiedGeneration:
        # Its attention layers are entered by name.
        config.compilation_config.static_forward_context = {}
        model = ShowoForUnifiedGeneration(vllm_config=config)
        for module in model.modules():
            if hasattr(module, "quant_method"):
                module.quant_method = None
        return model

    with set_current_vllm_config(config), torch.device(device):
        yield make


def test_vllms_own_layers_take_what_they_would_load_at_a_start(
    engine: Engine, checkpoints: tuple[Path, Path]
) -> None:
    with unpacked(engine, "cpu") as make:
        model, wanted = make(), make()
        for one, folder in zip((model, wanted), checkpoints, strict=True):
            one.load_weights(load_file(folder / WEIGHTS).items())
        before = values(model)
        prepared = prepare(model, load_file(checkpoints[1] / WEIGHTS), torch.float32)
        change_places(prepared, in_place=True)
        assert same(values(model), values(wanted))
        assert not same(values(model), before)


def test_on_a_pretended_gpu_weights_are_laid_out_and_exchanged_there(
    engine: Engine, checkpoints: tuple[Path, Path]
) -> None:
    """An operation on two devices raises there."""
    state = load_file(checkpoints[1] / WEIGHTS)
    with pretended_cuda(), torch.inference_mode(False), unpacked(engine, "cuda") as make:
        model = make()
        prepared = prepare(model, state, torch.float32)
        change_places(prepared, in_place=True)
        assert {one.device.type for _, fresh in prepared for one in fresh.parameters()} == {"cuda"}
