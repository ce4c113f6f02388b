"""Log-probs of chosen tokens, without ever holding a tokens-by-vocabulary matrix.

Legend: T tokens, D hidden, V vocabulary.

`HERMES_LOGPS` set to eager, chunked or triton overrides the choice by device.

Others' kernels are rivals in `benchmarks.speed.logps`, not versions: in bfloat16 they are not exact.
Liger's fused linear cross entropy (0.8.5, reduction none) rounds logits before their log-sum-exp: in Triton's
interpreter its log-probs are off by 2e-3 of the largest, ours by 1e-7. It also waits for the device in both
passes. In float32 it agrees; earlier versions scale every token's gradient by the first's. Cut-cross-entropy
(25.1.1) takes no bias, leaves out small gradients, and adds under locks, in another order each time.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from engine.errors import ConfigError
from train.logps.chunked import chunked_logps
from train.logps.head import Head, eager_logps

VARIABLE = "HERMES_LOGPS"
VERSIONS = ("eager", "chunked", "triton")


def token_logps(hidden_TD: Tensor, head: Head, targets_T: Tensor) -> Tensor:
    """log p(target) of each token under softmax(hidden @ weight.T + bias), [T], at least float32.

    targets_T are int64 ids. Give only the positions that carry a label: every row costs a pass over the
    vocabulary. Sums run in float32 (float64 for float64 inputs); gradients come back in the inputs' own
    types. Tensors on a CUDA device go to the Triton kernels, all others to the chunked version.

    Raises:
        IndexError: a target lies outside the head (not looked for on a GPU).
        ConfigError: HERMES_LOGPS names no version, or one that cannot run on this device.
    """
    version = _version(hidden_TD)
    vocabulary = len(head.weight_VD)
    # On a GPU the answer would have to be waited for.
    if not targets_T.is_cuda and not ((targets_T >= 0) & (targets_T < vocabulary)).all():
        raise IndexError(f"a target lies outside the {vocabulary} ids of the head")
    if version == "eager":
        return eager_logps(hidden_TD, head, targets_T)
    if version == "chunked":
        return chunked_logps(hidden_TD, head, targets_T)
    from train.logps.fused import fused_logps

    return fused_logps(hidden_TD, head, targets_T)


def _version(hidden: Tensor) -> str:
    named = os.environ.get(VARIABLE, "")
    if named and named not in VERSIONS:
        raise ConfigError(f"{VARIABLE} is {named!r}; take {', '.join(VERSIONS[:-1])} or {VERSIONS[-1]}")
    if named != "triton":
        # Tensor cores have no float64, and Triton's products of it are slow.
        fast = hidden.is_cuda and hidden.dtype != torch.float64 and _has_triton()
        return named or ("triton" if fast else "chunked")
    if not _has_triton():
        raise ConfigError(f"{VARIABLE} is triton, which is not installed; take chunked")
    if not hidden.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(f"{VARIABLE} is triton, but the tensors are on {hidden.device}; take chunked")
    return named


def _has_triton() -> bool:
    from importlib.util import find_spec

    return find_spec("triton") is not None
