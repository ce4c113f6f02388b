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

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

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
