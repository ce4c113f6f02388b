"""The inference activation against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from engine.models.activations import tanh_gelu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_activation_is_pytorchs(dtype: torch.dtype) -> None:
    x = torch.cat((torch.linspace(-100, 100, 20_001), torch.linspace(-6, 6, 100_001))).to(dtype)
    before = x.clone()
    with torch.no_grad():
        found = tanh_gelu(x)
    assert torch.equal(x, before)
    assert (found - F.gelu(x, approximate="tanh")).abs().max() < 1e-6


def test_it_has_a_gradient_where_one_is_wanted() -> None:
    x = torch.linspace(-3, 3, 50, requires_grad=True)
    (found,) = torch.autograd.grad(tanh_gelu(x).sum(), x)
    (wanted,) = torch.autograd.grad(F.gelu(x, approximate="tanh").sum(), x)
    assert torch.allclose(found, wanted)
