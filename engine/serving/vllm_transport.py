"""vLLM's own weight transports behind our seam: its trainer engines send, its worker engines receive.

Whoever trains makes `WeightTransferTrainerFactory.trainer_init(info, client=engine.client(), source=...)`,
and `Engine.swap(checkpoint, sender)` lets that sender send. vLLM's worker engine would load each tensor into
the model that serves as it comes. Here it is given another target, which keeps them aside, so that a swap is
checked, exchanged and undone in the same way whatever moved the bytes.

NCCL and IPC are constructed only where there is CUDA. They have not been run: there was no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from engine.checkpoints.weights import TensorLayout
from engine.errors import CheckpointError, EngineError
from engine.transport.delivery import Call

if TYPE_CHECKING:
    from pathlib import Path

    from vllm.config import WeightTransferConfig

NEED_CUDA = ("ipc", "nccl")


class Sender(Protocol):
    """The part of vLLM's `TrainerWeightTransferEngine` that a swap drives."""

    source: Any
    """vLLM's `WeightSource`, whose `metadata()` announces all tensors and moves none."""

    def send_weights(self) -> None:
        """Sends all tensors through the client that it was made with."""
        ...


def require_transport(name: str) -> None:
    """Whether this machine has a transport; says so before an engine starts.

    Raises:
        EngineError: it needs CUDA, and there is none.
    """
    if name in NEED_CUDA and not torch.cuda.is_available():
        raise EngineError(
            f"transport {name} moves weights between GPUs, and torch finds no CUDA device; "
            "set engine.transport to disk or shared"
        )


def transfer_config(name: str) -> WeightTransferConfig | None:
    """vLLM's configuration of one of its transports; None for an empty name.

    Raises:
        EngineError: vLLM does not know it.
    """
    if not name:
        return None
    from vllm.config import WeightTransferConfig
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if name not in WeightTransferEngineFactory._registry:
        known = ", ".join(sorted(WeightTransferEngineFactory._registry))
        raise EngineError(f"transport {name!r} is not known; take disk, shared, or one of vLLM's: {known}")
    return WeightTransferConfig(backend=name)


class Arrivals(nn.Module):
    """What a worker's transfer engine takes for the model: tensors by name, copied out of the transport."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[str, Tensor] = {}

    def load_weights(self, weights: Any) -> set[str]:
        """Keeps (name, tensor) pairs, on the CPU or wherever they came."""
        pairs = list(weights)
        self.tensors.update((name, tensor.detach().clone()) for name, tensor in pairs)
        return {name for name, _ in pairs}


def receive(worker: Any, arrived: Arrivals, update: dict[str, Any]) -> None:
    """Lets a vLLM worker's transfer engine receive one update into `arrived`."""
    transfer = worker.weight_transfer_engine
    transfer.set_weight_update_target(arrived, worker.model_runner.model_config)
    try:
        transfer.update_weights(update)
    finally:
        transfer.reset_weight_update_target()


class Client:
    """vLLM's `VLLMWeightSyncClient` for an engine in this process; updates pass during a swap alone."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._open: TensorLayout | None = None
        self._announced: set[str] = set()

    @contextmanager
    def opened(self, manifest: TensorLayout) -> Iterator[None]:
        """Lets tensors of this manifest pass while the block runs."""
        self._open, self._announced = manifest, set()
        try:
            yield
        finally:
            self._open = None

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """The workers' side of the handshake."""
        self._call("init_weight_transfer_engine", init_info)

    def start_weight_update(self) -> None:
        """The sender begins."""
        if self._open is None:
            raise EngineError("weights are sent by Engine.swap alone, which checks and can undo them")
        self._call("hermes_begin")

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Some or all tensors; whatever the manifest did not announce is refused before a worker sees it.

        Raises:
            CheckpointError: lists every tensor that is not as announced.
        """
        for part in update_info if isinstance(update_info, list) else [update_info]:
            self._check(part)
        self._call("hermes_receive", update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The sender has ended.

        Raises:
            CheckpointError: tensors did not come.
        """
        if missing := sorted((self._open or {}).keys() - self._announced):
            raise CheckpointError(f"the sender ended without {', '.join(missing)}")
        self._call("hermes_stage_received")

    def _check(self, part: dict[str, Any]) -> None:
        promised = self._open or {}
        problems = []
        for name, dtype, shape in zip(part["names"], part["dtype_names"], part["shapes"], strict=True):
            wanted = promised.get(name)
            if wanted is None or (tuple(shape), getattr(torch, dtype)) != wanted:
                problems.append(f"{name} {dtype}{list(shape)}, announced {wanted or 'not at all'}")
        if problems:
            raise CheckpointError(f"the sender sends other tensors than it announced: {'; '.join(problems)}")
        self._announced |= set(part["names"])


class Pushed:
    """A delivery by a sender, with the checkpoint that holds the same on disk."""

    def __init__(self, checkpoint: Path, fingerprint: str, sender: Sender, client: Client) -> None:
        self._checkpoint, self._fingerprint = checkpoint, fingerprint
        self._sender, self._client = sender, client

    def manifest(self) -> TensorLayout:
        """From the sender's source."""
        return {one.name: (tuple(one.shape), one.dtype) for one in self._sender.source.metadata()}

    def fingerprint(self) -> str:
        """Of the checkpoint on disk; that the sent tensors are the same is for the canaries to show."""
        return self._fingerprint

    def bring(self, call: Call) -> None:
        """The sender drives its client, which calls the workers."""
        with self._client.opened(self.manifest()):
            self._sender.send_weights()

    def settled(self) -> None:
        """The transport's connection stays for the next swap."""
