"""The float32 masters of a sharded model and their Adam moments, one whole parameter at a time.

DeepSpeed lays a rank's share of them out differently at every ZeRO stage. Here they are whole tensors under
the parameters' names, so what is stored of them fits any stage and any number of ranks. All ranks must make
the same calls in the same order: every one is collective.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


class Masters:
    """Masters and moments of the parameters that are trained, of a DeepSpeed engine."""

    def __init__(self, engine: Any, stage: int) -> None:
        self._engine = engine
        self._stage = stage
        self.parameters: dict[str, nn.Parameter] = {
            name: p for name, p in engine.module.named_parameters() if p.requires_grad
        }

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a whole parameter."""
        parameter = self.parameters[name]
        return tuple(getattr(parameter, "ds_shape", parameter.shape))

    def gather(self) -> Iterator[tuple[str, Tensor]]:
        """(name, whole float32 master on the CPU) of every parameter."""
        for name in self.parameters:
            yield name, self.read(name)

    def read(self, name: str, moment: str | None = None) -> Tensor:
        """A whole master, or one of its moments, float32 on the CPU."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self.parameters[name]
        if self._stage == 0:
            found = parameter if moment is None else self._adam.state[parameter][moment]
        elif moment is None:
            found = safe_get_full_fp32_param(parameter)
        else:
            found = safe_get_full_optimizer_state(parameter, moment)
        return found.detach().to("cpu", copy=True)

    def write(self, name: str, value: Tensor) -> None:
        """Sets a master from the whole tensor, and the parameter that the model computes with."""
        import deepspeed
        from deepspeed.utils import safe_set_full_fp32_param

        parameter = self.parameters[name]
        if self._stage == 0:
            parameter.data.copy_(value)
            return
        value = value.to(torch.float32).to(parameter.device)
        safe_set_full_fp32_param(parameter, value)
        if self._stage < 3:
            parameter.data.copy_(value)
            return
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(value)

    def write_moment(self, name: str, moment: str, value: Tensor) -> None:
        """Sets one of a master's moments."""
        from deepspeed.utils import safe_set_full_optimizer_state

        parameter = self.parameters[name]
        if self._stage == 0:
            self._adam.state[parameter][moment].copy_(value)
        else:
            safe_set_full_optimizer_state(parameter, value.to(parameter.device), moment)

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
        for flat in self._flat():
            self._adam.state[flat] = {
                "step": torch.tensor(0.0),
                **{moment: torch.zeros_like(flat) for moment in MOMENTS},
            }
        link = getattr(self._engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:
            link()

    @property
    def _adam(self) -> torch.optim.AdamW:
        return self._engine.basic_optimizer  # type: ignore[no-any-return]

    def _flat(self) -> list[Tensor]:
        """What Adam updates on this rank. Stage 3 takes it out of the optimizer between steps."""
        sharded = getattr(self._engine.optimizer, "fp32_partitioned_groups_flat", None)
        if sharded is not None:
            return list(sharded)
        return [flat for group in self._adam.param_groups for flat in group["params"]]
