"""New weights for a serving model, all or nothing: every layer is prepared aside, then all change places.

What is prepared never lies in the mapped file that it came from, which may be rewritten.

vLLM's own reload moves the model to the meta device layer by layer and cannot be resumed or undone after an
error. Here an error while preparing leaves the old weights untouched. On a CPU changing places is attribute
assignment alone; on a GPU parameters stay where they are and change contents. The price of a swap is room for
a second copy of the weights, and on a GPU for one parameter more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from engine.errors import CheckpointError, EngineError
from engine.serving.model import official_names

Prepared = list[tuple[nn.Module, nn.Module]]
"""(a module that serves, a bare module with its next parameters and packed copies)."""


def prepare(model: nn.Module, state: dict[str, Tensor], dtype: torch.dtype) -> Prepared:
    """Next parameters for every module, in vLLM's layout, where the served ones lie; consumes `state`,
    official names to tensors.

    Raises:
        CheckpointError: tensors are missing, unknown, or do not fit.
    """
    prepared: Prepared = []
    for path, module in model.named_modules():
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if not names:
            continue
        fresh = nn.Module()
        for name in names:
            value = _held_value(module, f"{path}.{name}", state, dtype)
            fresh.register_parameter(name, nn.Parameter(value, requires_grad=False))
        # vLLM's linear layers on a CPU compute from a packed copy and drop the plain weight. A new weight
        # that the layer's own method has not packed would never be used. On a GPU the method does nothing.
        if (method := getattr(module, "quant_method", None)) is not None:
            method.process_weights_after_loading(fresh)
        prepared.append((module, fresh))
    if state:
        raise CheckpointError(f"the served model does not know {', '.join(sorted(state))}")
    return prepared


def change_places(prepared: Prepared, in_place: bool = False) -> None:
    """Lets the prepared parameters and packed copies serve; what served before takes their place.

    On any error all that has changed so far changes back. `in_place` keeps the served parameters where they
    are and exchanges their contents, one at a time.

    Raises:
        CheckpointError: contents cannot be exchanged, for a shape, type or device differs; nothing changed.
    """
    if in_place and (problems := list(_differences(prepared))):
        raise CheckpointError(f"the new weights do not fit the served ones: {'; '.join(problems)}")
    # Captured graphs and the pool of vLLM's sleep hold the addresses of parameters. With new tensors in their
    # place, graphs would go on computing with the old weights.
    change = _change_contents if in_place else _change
    done: list[tuple[nn.Module, nn.Module, str]] = []
    try:
        for module, fresh in prepared:
            for name in _attributes(fresh):
                change(module, fresh, name)
                done.append((module, fresh, name))
    except BaseException:
        for module, fresh, name in reversed(done):
            change(module, fresh, name)
        raise


def emptied(model: nn.Module) -> Prepared:
    """Nothing in the place of every parameter and packed copy, for a model that sleeps."""
    prepared: Prepared = []
    for module in model.modules():
        fresh = nn.Module()
        for name, parameter in module.named_parameters(recurse=False):
            fresh.register_parameter(name, nn.Parameter(parameter.new_empty(0), requires_grad=False))
        if hasattr(module, "cpu_linear"):
            setattr(fresh, "cpu_linear", _gone)  # noqa: B010
        if _attributes(fresh):
            prepared.append((module, fresh))
    return prepared


def _gone(*args: object) -> Tensor:
    raise EngineError("the model's weights were given back; wake the engine first")


def _attributes(fresh: nn.Module) -> list[str]:
    names = [name for name, _ in fresh.named_parameters(recurse=False)]
    return [*names, *(["cpu_linear"] if hasattr(fresh, "cpu_linear") else [])]


def _change(module: nn.Module, fresh: nn.Module, name: str) -> None:
    served, following = getattr(module, name), getattr(fresh, name)
    setattr(module, name, following)
    setattr(fresh, name, served)


@torch.no_grad()
def _change_contents(module: nn.Module, fresh: nn.Module, name: str) -> None:
    served, following = getattr(module, name), getattr(fresh, name)
    before = served.clone()
    try:
        served.copy_(following)
        setattr(fresh, name, nn.Parameter(before, requires_grad=False))
    except BaseException:
        served.copy_(before)
        raise


def _differences(prepared: Prepared) -> Iterator[str]:
    """Why contents cannot be exchanged: copying would cast and broadcast without a word."""
    for module, fresh in prepared:
        for name in _attributes(fresh):
            served, following = (
                f"{list(one.shape)} {one.dtype} on {one.device}"
                for one in (getattr(module, name), getattr(fresh, name))
            )
            if served != following:
                yield f"{type(module).__name__}.{name} is {following}, it serves as {served}"


def _held_value(module: nn.Module, path: str, state: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """A parameter as this process holds it before packing: q, k and v stacked, the vocabulary padded."""
    wanted = official_names(path)
    if missing := [name for name in wanted if name not in state]:
        raise CheckpointError(f"the served model lacks {', '.join(missing)}")
    device = module.get_parameter(path.rpartition(".")[2]).device
    tensors = [state.pop(name).to(device, dtype) for name in wanted]
    if isinstance(module, QKVParallelLinear | ColumnParallelLinear):
        return torch.cat([_part(module, tensor, 0) for tensor in tensors])
    (value,) = tensors
    if isinstance(module, RowParallelLinear) and value.dim() == 2:
        return _part(module, value, 1).clone()
    if isinstance(module, VocabParallelEmbedding):
        rows = module.num_embeddings_padded
        padded = torch.cat((value, value.new_zeros(rows - len(value), *value.shape[1:])))
        return _part(module, padded, 0)
    return value.clone()


def _part(module: Any, value: Tensor, dim: int) -> Tensor:
    """What this process holds of a tensor that tensor parallelism divides."""
    part: Tensor = value.chunk(module.tp_size, dim)[module.tp_rank]
    return part.contiguous()
