"""Token log-probs: the chunked version against its eager twin and against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from train.logps import eager_token_logps, token_logps

# T tokens, D hidden, V vocabulary
Problem = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def problem(tokens: int, vocabulary: int, dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    targets_T = torch.randint(vocabulary, (tokens,), generator=generator)
    inputs = (draw(tokens, 24) * scale, draw(vocabulary, 24), draw(vocabulary))
    h, w, b = (value.to(dtype).requires_grad_() for value in inputs)
    return h, w, b, targets_T, draw(tokens).float()


def run(function, values: Problem, **kwargs) -> list[Tensor]:
    hidden, weight, bias, targets, upstream = values
    logp = function(hidden, weight, bias, targets, **kwargs)
    gradients = torch.autograd.grad(logp, (hidden, weight, bias), upstream.to(logp.dtype))
    return [logp.detach(), *gradients]


def exact(values: Problem) -> list[Tensor]:
    hidden, weight, bias = (value.detach().double().requires_grad_() for value in values[:3])
    return run(eager_token_logps, (hidden, weight, bias, *values[3:]))


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("chunk", [1, 7, 40, 97, 4096])
def test_every_chunk_size_gives_the_float64_values_and_gradients(chunk: int) -> None:
    values = problem(13, 97, torch.float64)
    for found, wanted in zip(run(token_logps, values, chunk=chunk), exact(values), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_chunking_costs_at_most_twice_the_eager_error_and_one_rounding(
    dtype: torch.dtype, scale: float
) -> None:
    values = problem(50, 301, dtype, scale=scale)
    chunked, eager = run(token_logps, values, chunk=64), run(eager_token_logps, values)
    for found, twin, wanted in zip(chunked, eager, exact(values), strict=True):
        assert found.dtype == twin.dtype
        slack = 4 * torch.finfo(found.dtype).eps
        assert error(found, wanted) <= 2 * error(twin, wanted) + slack


def test_bfloat16_inputs_are_summed_in_float32() -> None:
    values = problem(20, 500, torch.bfloat16)
    found = run(token_logps, values)[0]
    assert found.dtype == torch.float32
    assert error(found, exact(values)[0]) < 1e-6


def test_logits_in_the_thousands_stay_finite() -> None:
    values = problem(6, 50, torch.float32, scale=1000.0)
    for tensor in run(token_logps, values, chunk=16):
        assert tensor.isfinite().all()


def test_no_tokens_give_no_log_probs_and_zero_gradients() -> None:
    logp, hidden, weight, bias = run(token_logps, problem(0, 30, torch.float32), chunk=8)
    assert logp.shape == (0,)
    assert hidden.shape == (0, 24)
    assert not weight.any()
    assert not bias.any()


def test_no_tokens_by_vocabulary_matrix_is_kept_for_the_backward_pass() -> None:
    hidden, weight, bias, targets, _ = problem(40, 900, torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        token_logps(hidden, weight, bias, targets, chunk=64)
    assert sum(t.numel() for t in kept) == hidden.numel() + weight.numel() + bias.numel() + 2 * 40


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 20), vocabulary=st.integers(2, 70), chunk=st.integers(1, 80))
def test_probabilities_of_all_targets_sum_to_one(tokens: int, vocabulary: int, chunk: int) -> None:
    hidden, weight, bias, _, _ = problem(tokens, vocabulary, torch.float64, seed=tokens)
    total = sum(
        token_logps(hidden, weight, bias, torch.full((tokens,), v), chunk).exp() for v in range(vocabulary)
    )
    torch.testing.assert_close(total, torch.ones(tokens, dtype=torch.float64))
