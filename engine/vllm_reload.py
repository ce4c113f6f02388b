"""New weights for a serving model, all or nothing: every layer is prepared aside, then all change places.

vLLM's own reload moves the model to the meta device layer by layer and cannot be resumed or undone after an
error. Here an error while preparing leaves the old weights untouched, and changing places is attribute
assignment alone. The price is room for a second copy of the weights while a swap lasts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.errors import CheckpointError
from engine.vllm_model import official_names

Prepared = list[tuple[nn.Module, nn.Module]]
"""(a module that serves, a bare module with its next parameters and packed copies)."""


def prepare(model: nn.Module, state: dict[str, Tensor], dtype: torch.dtype) -> Prepared:
    """Next parameters for every module, in vLLM's layout; consumes `state`, official names to tensors.

    vLLM's CPU linear layers compute from packed copies and drop the plain weight, so the layer's own method
    packs the new one too.

    Raises:
        CheckpointError: tensors are missing, unknown, or do not fit.
    """
    prepared: Prepared = []
    for path, module in model.named_modules():
        names = list(module._parameters)
        if not names:
            continue
        fresh = nn.Module()
        for name in names:
            value = _held_value(module, f"{path}.{name}", state, dtype)
            fresh.register_parameter(name, nn.Parameter(value, requires_grad=False))
        if (method := getattr(module, "quant_method", None)) is not None:
            method.process_weights_after_loading(fresh)
        prepared.append((module, fresh))
    if state:
        raise CheckpointError(f"the served model does not know {', '.join(sorted(state))}")
    return prepared


def change_places(prepared: Prepared) -> None:
    """Lets the prepared parameters and packed copies serve."""
    for module, fresh in prepared:
        for name, parameter in fresh.named_parameters(recurse=False):
            setattr(module, name, parameter)
        if hasattr(fresh, "cpu_linear"):
            module.cpu_linear = fresh.cpu_linear


def _held_value(module: nn.Module, path: str, state: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """A parameter as vLLM holds it before packing: q, k and v stacked, the vocabulary padded with zeros."""
    wanted = official_names(path)
    if missing := [name for name in wanted if name not in state]:
        raise CheckpointError(f"the served model lacks {', '.join(missing)}")
    value = torch.cat([state.pop(name) for name in wanted]).to(dtype)
    rows = getattr(module, "num_embeddings_padded", len(value))
    return torch.cat((value, value.new_zeros(rows - len(value), *value.shape[1:])))
