"""The policy under DeepSpeed ZeRO-3: set-up, one step, resumable state, and the gathered checkpoint.

What DeepSpeed calls its engine is the `Policy` here. One process needs no launcher; under `deepspeed` or
`torchrun` the ranks come from the environment.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.errors import CheckpointError, ConfigError
from engine.weights import load_model, save_state
from train.batch import Rows
from train.config import TrainConfig
from train.row_logps import RowLogps

BETAS = (0.9, 0.999)
PERSIST = 100_000
"""Parameters of fewer elements stay whole on every rank (DeepSpeed's own default)."""


@contextmanager
def open_policy(config: TrainConfig, checkpoint: Path, persist: int = PERSIST) -> Iterator[Policy]:
    """A trainable policy that starts from a checkpoint; its process group ends with the context.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ConfigError: the batch cannot be shared out, or device is cuda and there is none.
    """
    with process_group(config):
        yield Policy(config, checkpoint, persist)


@contextmanager
def process_group(config: TrainConfig) -> Iterator[None]:
    """Joins the launcher's ranks, or makes a group of one; ends the group only if it was made here."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train: device is cuda, but torch finds no CUDA device; use device cpu")
    # DeepSpeed reads both at import or set-up, and asks for LOCAL_RANK even in a group of one.
    os.environ.setdefault("DS_ACCELERATOR", config.device)
    os.environ.setdefault("LOCAL_RANK", "0")
    made = not dist.is_initialized()
    if made:
        backend = "nccl" if config.device == "cuda" else "gloo"
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        if config.batch % dist.get_world_size():
            raise ConfigError(
                f"train: batch is {config.batch}, it must be a multiple of the {dist.get_world_size()} ranks"
            )
        yield
    finally:
        if made:
            _end_group()


def _end_group() -> None:
    """Ends the process group through DeepSpeed, which keeps references to it that it must drop."""
    comm = sys.modules.get("deepspeed.comm")
    if comm is not None and comm.is_initialized():
        comm.destroy_process_group()
    if dist.is_initialized():
        dist.destroy_process_group()


class Policy:
    """Show-o's row log-probs, sharded, with its optimizer."""

    def __init__(self, config: TrainConfig, checkpoint: Path, persist: int = PERSIST) -> None:
        model = load_model(checkpoint).train()
        self._companions = checkpoint
        self._model_config = model.config
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        place = f"cuda:{os.environ['LOCAL_RANK']}" if config.device == "cuda" else "cpu"
        self.device = torch.device(place)
        with _quiet_deepspeed():
            import deepspeed

            if self.world == 1:
                # A shared-memory all-reduce between ranks; one rank need not compile it.
                deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            if config.device == "cuda":
                torch.cuda.set_device(self.device)
            scorer = RowLogps(model, config.image_vocabulary)
            # torch's own AdamW: DeepSpeed's would compile a C++ extension on its first use.
            optimizer = torch.optim.AdamW(decay_groups(scorer, config.weight_decay), betas=BETAS)
            self._engine: Any = deepspeed.initialize(
                model=scorer,
                optimizer=optimizer,
                config=_deepspeed_config(config, self.world, persist),
                dist_init_required=False,
            )[0]

    def __call__(self, rows: Rows) -> Tensor:
        """Summed log-probs of each row, [R] float32, on the policy's device."""
        return self._engine(*rows.to(self.device)).float()

    def step(self, loss: Tensor, learning_rate: float) -> float:
        """Backward, clip, update; the gradient's 2-norm before clipping. Loss is this rank's mean."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        with _quiet_deepspeed():
            self._engine.backward(loss)
            self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def total(self, values: Tensor) -> Tensor:
        """Sum over the ranks, on the CPU."""
        values = values.detach().to(self.device)
        if self.world > 1:
            dist.all_reduce(values)
        return values.cpu()

    def save(self, folder: Path) -> None:
        """Weights and optimizer of all ranks into `folder`, which appears complete or not at all."""
        beside = folder.with_name(folder.name + ".new")
        if self.rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
        with _quiet_deepspeed():
            dist.barrier()
            self._engine.save_checkpoint(str(beside), tag="ranks", save_latest=False)
            dist.barrier()
        if self.rank == 0:
            beside.rename(folder)
        dist.barrier()

    def load(self, folder: Path) -> None:
        """Takes up what `save` wrote.

        Raises:
            CheckpointError: it cannot be read, or was written by another number of ranks.
        """
        shards = len(list((folder / "ranks").glob("*_optim_states.pt")))
        if shards != self.world:
            raise CheckpointError(
                f"{folder}: was saved by {shards} ranks, this run has {self.world}; "
                "go on with as many ranks, or remove it to start anew"
            )
        try:
            with _quiet_deepspeed():
                self._engine.load_checkpoint(str(folder), tag="ranks")
        except Exception as error:  # pickle, zip and DeepSpeed errors of a damaged file
            raise CheckpointError(f"{folder}: cannot be read: {error}; remove it to start anew") from error

    def publish(self, folder: Path) -> None:
        """Gathers the weights into a checkpoint folder, with the tokenizers of the one it started from.

        All ranks must call it, for the gathering is collective; rank 0 writes.
        """
        with _quiet_deepspeed():
            state = self._engine._zero3_consolidated_16bit_state_dict()
        if self.rank == 0:
            prefix = "model."
            weights = {
                name.removeprefix(prefix): tensor.float().contiguous()
                for name, tensor in state.items()
                if name.startswith(prefix)
            }
            beside = folder.with_name(folder.name + ".new")
            shutil.rmtree(beside, ignore_errors=True)
            save_state(weights, self._model_config, beside, self._companions)
            beside.rename(folder)
        dist.barrier()


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups: weight decay on the matrices of linear layers, on nothing else."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        spared = parameter.ndim < 2 or "embed_tokens" in name
        (others if spared else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _deepspeed_config(config: TrainConfig, world: int, persist: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": config.batch // world,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.clip,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": persist},
        "steps_per_print": 2**31,
    }


@contextmanager
def _quiet_deepspeed() -> Iterator[None]:
    """Keeps DeepSpeed off stdout, which belongs to our callers: prints and warnings go to stderr."""
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            log = logging.getLogger("DeepSpeed")
            log.setLevel(logging.WARNING)
            for handler in log.handlers:
                # DeepSpeed's own handler is a plain one; subclasses were put there by somebody else.
                if type(handler) is logging.StreamHandler:
                    handler.setStream(sys.__stderr__)
