"""Import this first: vLLM on a CPU with its Triton kernels in Triton's interpreter.

A process of its own is needed, for the interpreter must be switched on before anything imports Triton, and
vLLM for CPUs puts placeholders where Triton is. vLLM's top-k kernel is left out, as the interpreter cannot
run it.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
import triton.language as tl
import vllm.triton_utils

vllm.triton_utils.HAS_TRITON = True
vllm.triton_utils.triton, vllm.triton_utils.tl = triton, tl
# Asked for a number of warps, which the interpreter ignores.
torch.cuda.get_device_capability = lambda *_: (9, 0)

from vllm.v1.sample.ops import topk_topp_sampler  # noqa: E402

topk_topp_sampler.HAS_TRITON = False
