"""A weight transport of vLLM's own kind that works without a GPU: both sides, with files for a wire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from vllm.distributed.weight_transfer.base import (
    ModuleSource,
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)

NAME = "hermes-test-files"


@dataclass
class FileInit(WeightTransferInitInfo):
    """Where the files lie."""

    folder: str


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """One file, in the fields that vLLM's NCCL and IPC updates have."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    file: str


class FileReceiver(WeightTransferEngine[FileInit, FileUpdate]):
    """The worker's side."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate

    def init_transfer_engine(self, init_info: FileInit) -> None:
        self.folder = Path(init_info.folder)

    def start_weight_update(self) -> None:
        raise AssertionError("vLLM's own loading, layer by layer, must not begin")

    def finish_weight_update(self) -> None:
        raise AssertionError("vLLM's own loading, layer by layer, must not end")

    def receive_weights(self, update_info: FileUpdate) -> None:
        tensors = load_file(self.folder / update_info.file)
        for name, tensor in tensors.items():
            self.model.load_weights([(name, tensor)])

    def shutdown(self) -> None:
        pass


@dataclass
class FileTrainerInit(TrainerInitInfo):
    """Where to write them."""

    backend: ClassVar[str] = NAME
    folder: str


class FileSender(TrainerWeightTransferEngine[FileTrainerInit]):
    """The trainer's side: a file a layer."""

    init_info_cls = FileTrainerInit
    folder: Path

    @classmethod
    def trainer_init(
        cls, init_info: FileTrainerInit, *, client: Any, source: WeightSource | None = None
    ) -> Self:
        sender = cls(client=client, source=source, is_sender=init_info.is_sender)
        sender.folder = Path(init_info.folder)
        client.init_weight_transfer_engine({"folder": init_info.folder})
        return sender

    def send_weights(self) -> None:
        assert self.source is not None
        self.client.start_weight_update()
        for number, (names, tensors) in enumerate(self.source.iter_groups()):
            path = self.folder / f"{number}.safetensors"
            save_file({name: tensor.detach() for name, tensor in zip(names, tensors, strict=True)}, path)
            update = FileUpdate(
                names=names,
                dtype_names=[str(tensor.dtype).removeprefix("torch.") for tensor in tensors],
                shapes=[list(tensor.shape) for tensor in tensors],
                file=path.name,
            )
            self.client.update_weights(asdict(update))
        self.client.finish_weight_update()


class BadSource(WeightSource):
    """Weights that go wrong on their way, in the manner that a test names."""

    def __init__(self, module: torch.nn.Module, fault: str) -> None:
        self._whole, self._fault = ModuleSource(module), fault

    def metadata(self) -> list[ParamMeta]:
        found = self._whole.metadata()
        if self._fault == "too few announced":
            return found[:-2]
        if self._fault == "another shape announced":
            return [*found[:-1], ParamMeta(found[-1].name, found[-1].dtype, (3, 3))]
        return found

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        last = len(self._whole.metadata()) - 1
        for number, (name, tensor) in enumerate(self._whole):
            if number == last and self._fault == "dies":
                raise RuntimeError("the trainer is gone")
            if number == last and self._fault == "no room":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.\nSee ...")
            if number == last and self._fault == "another shape sent":
                tensor = torch.zeros(3, 3)
            if number == last and self._fault == "one is missing":
                return
            yield name, tensor

    def iter_groups(self) -> Iterator[tuple[list[str], list[torch.Tensor]]]:
        for name, tensor in self:
            yield [name], [tensor]


def register() -> None:
    """Tells vLLM of both sides; safe to call again."""
    if NAME not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(NAME, FileReceiver)
        WeightTransferTrainerFactory.register_engine(NAME, FileSender)
