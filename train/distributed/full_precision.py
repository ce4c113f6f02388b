"""The float32 weights of a sharded model and their Adam moments, one whole parameter at a time.

DeepSpeed lays a rank's share of them out differently at every ZeRO stage. Here they are whole tensors under
the parameters' names, so what is stored of them fits any stage and any number of ranks. All ranks must make
the same calls in the same order: every one is collective.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Kind = Literal["master", "exp_avg", "exp_avg_sq"]
"""The float32 weight itself, and Adam's two moments under torch's names."""
KINDS: tuple[Kind, ...] = get_args(Kind)


class Fp32State:
    """Float32 weights ("masters") and moments of the parameters that a DeepSpeed engine trains."""

    def __init__(self, engine: Any, stage: int) -> None:
        self._engine = engine
        self._stage = stage
        self.parameters: dict[str, nn.Parameter] = {
            name: p for name, p in engine.module.named_parameters() if p.requires_grad
        }

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a whole parameter."""
        parameter = self.parameters[name]
        # Stage 3 leaves an empty tensor in the parameter's place, and the shape beside it.
        return tuple(getattr(parameter, "ds_shape", parameter.shape))

    def gather(self) -> Iterator[tuple[str, Tensor]]:
        """(name, whole float32 weight on the CPU) of every parameter."""
        for name in self.parameters:
            yield name, self.read("master", name)

    def read(self, kind: Kind, name: str) -> Tensor:
        """A whole tensor, float32 on the CPU."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self.parameters[name]
        if self._stage == 0:
            # DeepSpeed's accessors know only its own optimizers, which stage 0 does without.
            found = parameter if kind == "master" else self._adam.state[parameter][kind]
        elif kind == "master":
            found = safe_get_full_fp32_param(parameter)
        else:
            found = safe_get_full_optimizer_state(parameter, kind)
        return found.detach().to("cpu", copy=True)

    def write(self, kind: Kind, name: str, value: Tensor) -> None:
        """Sets it from the whole tensor; with a weight also the parameter that the model computes with."""
        import deepspeed
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        parameter = self.parameters[name]
        if self._stage == 0:
            (parameter.data if kind == "master" else self._adam.state[parameter][kind]).copy_(value)
            return
        value = value.to(parameter.device)
        if kind != "master":
            safe_set_full_optimizer_state(parameter, value, kind)
            return
        value = value.to(torch.float32)
        safe_set_full_fp32_param(parameter, value)
        # DeepSpeed copies masters into parameters after an update; none follows here.
        if self._stage < 3:
            parameter.data.copy_(value)
            return
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(value)

    @property
    def updates(self) -> int:
        """Updates that Adam has made: its bias correction depends on them."""
        return int(next(iter(self._adam.state.values()))["step"])

    @updates.setter
    def updates(self, count: int) -> None:
        for state in self._adam.state.values():
            state["step"].fill_(count)

    def begin_moments(self) -> None:
        """Makes the moments, all zero, that torch's AdamW would only make at its first update.

        Stages 1 and 2 then learn where each parameter's moments lie. Left alone they look for them after the
        first update of the first of the optimizer's groups, and miss those of the others.
        """
        # What Adam updates on this rank. Stage 3 takes it out of the optimizer between steps.
        sharded = getattr(self._engine.optimizer, "fp32_partitioned_groups_flat", None)
        groups = [group["params"] for group in self._adam.param_groups] if sharded is None else [sharded]
        for flat in (tensor for group in groups for tensor in group):
            self._adam.state[flat] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(flat),
                "exp_avg_sq": torch.zeros_like(flat),
            }
        link = getattr(self._engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:
            link()

    @property
    def _adam(self) -> torch.optim.AdamW:
        return self._engine.basic_optimizer  # type: ignore[no-any-return]
