"""Models on a GPU that is not there: mixing devices, and waiting for what the device computes, raise.

PyTorch's fake tensors have sizes and a device and no numbers. A CPU build of PyTorch lacks the device guard
that indexing and copies on `cuda` ask for; a build for CUDA puts this empty one there where it finds no GPU.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig

CUDA = torch.device("cuda", 0)
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>)
}
"""


@cache
def _guard() -> None:
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "guard.cpp", Path(folder) / "guard.so"
        source.write_text(GUARD)
        subprocess.run(
            [
                *("c++", "-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}", str(source)),
                *("-o", str(library), f"-L{root / 'lib'}", "-lc10"),
            ],
            check=True,
        )
        ctypes.CDLL(str(library))


@contextmanager
def pretended_cuda() -> Iterator[None]:
    """Inside, tensors can be on `CUDA`; they hold no numbers."""
    if torch.version.cuda is None:
        _guard()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        yield


def moved(model: nn.Module) -> nn.Module:
    """The model with parameters and buffers on the pretended GPU; only inside `pretended_cuda`."""
    for module in model.modules():
        for name, one in module._parameters.items():
            if one is not None:
                empty = torch.empty(one.shape, dtype=one.dtype, device=CUDA)
                module._parameters[name] = nn.Parameter(empty, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)
    return model


def small_showo(**more: Any) -> Showo:
    """A small model without weights, to be `moved`; `more` settings of its configuration."""
    config = ShowoConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        text_vocab_size=50,
        codebook_size=32,
        num_image_tokens=16,
        max_text_len=8,
        bos_token_id=49,
        max_position_embeddings=64,
        **more,
    )
    with torch.device("meta"):
        return Showo(config).eval().requires_grad_(False)
