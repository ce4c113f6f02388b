"""The fused kernels against their eager twins and float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from engine.kernels import phi
from engine.kernels.native import native

DTYPES = [torch.float32, torch.bfloat16]
ROUNDING = {torch.float32: 1.2e-7, torch.bfloat16: 2**-8}
"""The largest relative error of a stored number."""


@pytest.fixture(autouse=True)
def _built() -> None:
    assert native() is not None, "no C++ compiler built the kernels"


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm(size: int, seed: int, dtype: torch.dtype) -> nn.LayerNorm:
    made = nn.LayerNorm(size, dtype=dtype)
    for number, one in enumerate(made.parameters()):
        one.data = numbers(size, seed=seed + number, dtype=dtype)
    return made


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_activation_is_pytorchs(dtype: torch.dtype) -> None:
    x = torch.cat((torch.linspace(-100, 100, 20_000), torch.linspace(-6, 6, 100_000))).to(dtype)
    wanted = F.gelu(x.double(), approximate="tanh")
    with torch.no_grad():
        found = phi.tanh_gelu(x.clone())
    assert ((found - wanted).abs() <= 4 * ROUNDING[dtype] * wanted.abs() + 1e-6).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tables", [(1, 16), (7, 16), (4, 7, 16)])
def test_heads_are_normed_and_rotated_as_by_the_twin(dtype: torch.dtype, tables: tuple[int, ...]) -> None:
    angles = 6 * torch.rand(*tables, generator=torch.Generator().manual_seed(1))
    cos, sin = angles.cos(), angles.sin()
    tokens = 1 if tables[0] == 1 else 7
    qkv = numbers(4, tokens, 3, 5, 32, dtype=dtype)
    norms = norm(32, 2, dtype), norm(32, 4, dtype)
    with torch.no_grad():
        found = phi.heads(qkv, *norms, cos, sin)
    exact = [one.double() for one in norms]
    wanted = phi.heads(qkv.double(), exact[0], exact[1], cos.double(), sin.double())
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() < 8 * ROUNDING[dtype] * other.abs().max()


def test_what_needs_a_gradient_has_one() -> None:
    x = torch.linspace(-3, 3, 48, requires_grad=True)
    (found,) = torch.autograd.grad(phi.tanh_gelu(x).sum(), x)
    (wanted,) = torch.autograd.grad(F.gelu(x, approximate="tanh").sum(), x)
    assert torch.allclose(found, wanted)


class Problem:
    """Prefixes, continuations of them, and some new tokens in random places of these."""

    def __init__(self, seed: int, size: int, prefix: int, room: int, dtype: torch.dtype) -> None:
        rng = torch.Generator().manual_seed(seed)
        heads, prefixes, continuations = 3, 2, 5
        self.prefix_tokens = prefix
        k, v = (numbers(prefixes, prefix, heads, size, seed=seed + i, dtype=dtype) for i in (1, 2))
        self.prefixes = phi.PrefixCache.of(k, v)
        self.own = phi.ContinuationCache.empty(continuations, room, self.prefixes)
        for i, one in enumerate(self.own):
            one.copy_(numbers(*one.shape, seed=seed + 3 + i, dtype=dtype))
        every = torch.cartesian_prod(torch.arange(continuations), torch.arange(room))
        chosen = every[torch.randperm(len(every), generator=rng)[: continuations * room // 2 + 1]]
        self.continuation, self.place = chosen.T.contiguous()
        self.shared = (torch.rand(len(chosen), generator=rng) * (self.place + 2)).long()
        self.first = self.shared + (torch.rand(len(chosen), generator=rng) * 3).long()
        self.prefix = torch.randint(prefixes, (continuations,), generator=rng)
        self.q, self.k, self.v = (
            numbers(len(chosen), heads, size, seed=seed + i, dtype=dtype) for i in (5, 6, 7)
        )

    def attend(self, which: Tensor, exact: bool = False) -> Tensor:
        """Attention of some of the new tokens; `exact` by the twin in float64."""
        new = phi.NewTokens(
            self.prefix, self.continuation[which], self.place[which], self.shared[which], self.first[which]
        )
        given = (self.q[which], self.k[which], self.v[which])
        prefixes, own = self.prefixes, phi.ContinuationCache(*(one.clone() for one in self.own))
        if exact:
            given = tuple(one.double() for one in given)
            prefixes = phi.PrefixCache(*(one.double() for one in prefixes))
            own = phi.ContinuationCache(*(one.double() for one in own))
        with torch.no_grad():
            return phi.continuation_attention(*given, prefixes, self.prefix_tokens, own, new)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    size=st.sampled_from([8, 24, 32, 64]),
    prefix=st.integers(1, 70),
    room=st.integers(1, 40),
)
def test_continuation_attention_is_the_twins(
    dtype: torch.dtype, seed: int, size: int, prefix: int, room: int
) -> None:
    problem = Problem(seed, size, prefix, room, dtype)
    every = torch.arange(len(problem.continuation))
    found, wanted = problem.attend(every), problem.attend(every, exact=True)
    assert (found - wanted).abs().max() < 8 * ROUNDING[dtype] * math.sqrt(size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_is_given_the_same_alone_and_among_others(dtype: torch.dtype) -> None:
    """To the last bit: a curation that is killed and goes on must not differ in a digit."""
    problem = Problem(3, 32, 37, 21, dtype)
    together = problem.attend(torch.arange(len(problem.continuation)))
    last = {int(continuation): 0 for continuation in problem.continuation}
    for i, continuation in enumerate(problem.continuation.tolist()):
        last[continuation] = max(last[continuation], int(problem.place[i]))
    # One new token a continuation, as in decoding: no other new token is seen.
    for i in range(len(problem.continuation)):
        alone = problem.attend(torch.tensor([i]))
        seen = problem.attend(
            torch.cat((torch.tensor([i]), (problem.continuation != problem.continuation[i]).nonzero()[:, 0]))
        )
        assert torch.equal(alone[0], seen[0])
    assert together.isfinite().all()
