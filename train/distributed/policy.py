"""The policy under DeepSpeed ZeRO: set-up, one step, resumable state, and the gathered checkpoint.

What DeepSpeed calls its engine is the `Policy` here. One process needs no launcher; under `deepspeed` or
`torchrun` the ranks come from the environment.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from engine.checkpoints.swap_probe import PROBES, Probe, ProbeSet, fixed_captions
from engine.checkpoints.weights import load_model, save_state
from engine.files.atomic import NEW, atomic_folder, place_folder, writing
from engine.files.layout import WEIGHTS
from engine.files.seals import seal
from train.config import RENDEZVOUS, TrainConfig
from train.data.batch import Layout, Rows
from train.distributed.deepspeed_config import PERSIST, deepspeed_config, shares
from train.distributed.device import open_device
from train.distributed.full_precision import Fp32State
from train.distributed.lora import UP, add_adapters, merge_adapters
from train.distributed.state import read_state, write_state
from train.logps.row_logps import RowLogps

BETAS = (0.9, 0.999)
PREFIX = "model."
"""Where the checkpoint's names begin inside `RowLogps`."""


@contextmanager
def open_policy(config: TrainConfig, checkpoint: Path, persist: int = PERSIST) -> Iterator[Policy]:
    """A trainable policy that starts from a checkpoint; its process group ends with the context.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ConfigError: the batch cannot be shared out, or device is cuda and there is none.
        EngineError: the device's memory ran out, here or while the context lasts.
    """
    with process_group(config):
        yield Policy(config, checkpoint, persist)


@contextmanager
def process_group(config: TrainConfig) -> Iterator[None]:
    """Joins the launcher's ranks, or makes a group of one, on this rank's device; ends the group only if it
    was made here."""
    # DeepSpeed reads both at import or set-up, and asks for LOCAL_RANK even in a group of one.
    os.environ.setdefault("DS_ACCELERATOR", config.device_type)
    number = int(os.environ.setdefault("LOCAL_RANK", "0"))
    with open_device(config, number) as device:
        made = not dist.is_initialized()
        if made:
            _make_group(device)
        try:
            shares(config, dist.get_world_size())
            yield
        finally:
            if made:
                _end_group()


def _make_group(device: torch.device) -> None:
    backend, bound = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    meeting = os.environ.get(RENDEZVOUS)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        where = f"file://{meeting}" if meeting else "env://"
        dist.init_process_group(backend, where, rank=rank, world_size=world, device_id=bound)
        return
    # NCCL opens a socket even for one rank, on a machine that may have no network.
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    store = dist.HashStore()  # type: ignore[attr-defined]  # public, but not in torch's stubs
    dist.init_process_group(backend, store=store, rank=0, world_size=1, device_id=bound)


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
        model.checkpointing = config.gradient_checkpointing
        if config.lora_rank:
            add_adapters(model, config)
        self._config = config
        self._checkpoint = checkpoint
        self._model_config = model.config
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        cuda = config.device_type == "cuda"
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        with _quiet_deepspeed():
            import deepspeed

            # A shared-memory all-reduce on CPUs, compiled on first use; what a killed rank leaves of it in
            # /dev/shm would outlive the run.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            scorer = RowLogps(model)
            # torch's own AdamW: DeepSpeed's would compile a C++ extension on its first use.
            optimizer = torch.optim.AdamW(decay_groups(scorer, config.weight_decay), betas=BETAS)
            self._engine: Any = deepspeed.initialize(
                model=scorer,
                optimizer=optimizer,
                config=deepspeed_config(config, self.world, persist),
                dist_init_required=False,
            )[0]
            self._fp32 = Fp32State(self._engine, config.zero_stage)
            self._fp32.begin_moments()
            if config.dtype == "bfloat16" and not config.lora_rank:
                self._restore_fp32()

    def _restore_fp32(self) -> None:
        """Takes the checkpoint's float32 weights: DeepSpeed makes its own from the rounded parameters."""
        with safe_open(self._checkpoint / WEIGHTS, "pt") as stored:
            for name in self._fp32.parameters:
                self._fp32.write("master", name, stored.get_tensor(name.removeprefix(PREFIX)))

    def __call__(self, rows: Rows) -> Tensor:
        """Summed log-probs of each row, [R] float32, on the policy's device."""
        logps_R: Tensor = self._engine(*rows.to(self.device))
        return logps_R.float()

    def step(self, losses: Iterable[Tensor], learning_rate: float) -> float:
        """Backward of each loss, then clip and update; the gradient's 2-norm before clipping.

        `losses` are the means over this rank's micro-batches, all of one size, as many as its share of the
        batch holds. Each is taken from the iterable when the graph of the one before is gone.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = 0.0
        for loss in losses:
            with _quiet_deepspeed():
                self._engine.backward(loss)
                if self._config.zero_stage == 0:
                    # DeepSpeed clips by it and does not tell.
                    gradients = [p.grad for p in self._fp32.parameters.values() if p.grad is not None]
                    norm = float(get_total_norm(gradients))
                self._engine.step()
        return norm if self._config.zero_stage == 0 else float(self._engine.get_global_grad_norm())

    def total(self, values: Tensor) -> Tensor:
        """Sum over the ranks, on the CPU."""
        values = values.detach().to(self.device)
        if self.world > 1:
            dist.all_reduce(values)
        return values.cpu()

    @property
    def peak_memory_mib(self) -> float:
        """The most memory that this process has held, of its device (CUDA) or altogether (CPU), in MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def save(self, folder: Path) -> None:
        """Float32 weights and optimizer of all ranks into `folder`, which appears complete or not at all."""
        beside = folder.with_name(folder.name + NEW)
        if self.rank == 0:
            with writing(beside):
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
        dist.barrier()
        with _quiet_deepspeed():
            write_state(self._fp32, beside, self.rank, self.world)
        dist.barrier()
        if self.rank == 0:
            seal(beside)
            place_folder(beside, folder)
        dist.barrier()

    def load(self, folder: Path) -> None:
        """Takes up what `save` wrote, on any number of ranks.

        Raises:
            CheckpointError: it cannot be read.
        """
        with _quiet_deepspeed():
            read_state(self._fp32, folder)

    def average_weights(self) -> None:
        """Moves the policy back towards the weights it started from, as far as `weight_averaging` says.

        All ranks must call it; training ends with it.

        Adapters begin with a product of zero: of each, the matrix that was zero is made smaller.
        """
        alpha = self._config.weight_averaging
        if alpha == 1:
            return
        with _quiet_deepspeed(), safe_open(self._checkpoint / WEIGHTS, "pt") as start:
            for name, trained in self._fp32.gather():
                if not self._config.lora_rank:
                    before = start.get_tensor(name.removeprefix(PREFIX)).float()
                    self._fp32.write("master", name, torch.lerp(before, trained, alpha))
                elif name.endswith(UP):
                    self._fp32.write("master", name, alpha * trained)

    def publish(self, folder: Path) -> None:
        """Gathers the float32 weights into a checkpoint folder, with the tokenizers of the one before it.

        Adapters are merged. All ranks must call it, for the gathering is collective; rank 0 writes.
        What the policy itself gives for fixed captions goes along (`engine.checkpoints.swap_probe`).
        """
        probes = self._probes()
        trained = {}
        with _quiet_deepspeed():
            for name, whole in self._fp32.gather():
                if self.rank == 0:
                    trained[name.removeprefix(PREFIX)] = whole
        if self.rank == 0:
            if self._config.lora_rank:
                trained = merge_adapters(load_file(self._checkpoint / WEIGHTS), trained, self._config)
            with atomic_folder(folder) as beside:
                save_state(trained, self._model_config, beside, self._checkpoint)
                if probes is not None:
                    (beside / PROBES).write_bytes(msgspec.json.encode(probes))
                seal(beside)
        dist.barrier()

    @torch.no_grad()
    def _probes(self) -> ProbeSet | None:
        """Log-probs of the fixed captions; a model that sees CLIP features has none."""
        if self._model_config.w_clip_vit:
            return None
        captions = fixed_captions(self._model_config)
        layout = Layout.load(self._checkpoint)
        logps = self(layout.stack([layout.caption_row(*one) for one in captions])).tolist()
        probes = tuple(Probe(*one, logp) for one, logp in zip(captions, logps, strict=True))
        return ProbeSet(dtype=self._config.dtype, probes=probes)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups of what is trained: weight decay on the matrices of linear layers, on nothing else."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter.ndim < 2 or "embed_tokens" in name
        (others if spared else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


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
