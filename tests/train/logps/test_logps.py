"""Token log-probs: the chunked version and the dispatch, against the eager twin and against float64."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from logps_problem import error, exact, problem, run
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from engine.errors import ConfigError
from train.logps.chunked import chunked_logps
from train.logps.dispatch import token_logps
from train.logps.head import eager_logps
from train.logps.row_logps import HeadLogps

KEPT = [0, 3 * 97 * 8, 10**6]
"""Bytes kept beside the gradient's storage at 97 ids in float64: for no token, for three, for all."""


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations made and that live; and the highest seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {one.untyped_storage()._cdata for one in args if isinstance(one, Tensor)}
        found = function(*args, **(kwargs or {}))
        for one in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(one, Tensor):
                self._count(one.untyped_storage(), known)
        return found

    def _count(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in known or key in self._storages:
            return
        self._storages.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.now -= size


@pytest.mark.parametrize("chunk", [1, 7, 40, 97, 4096])
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("tokens", [13, 31])
def test_every_chunk_size_gives_the_float64_values_and_gradients(chunk: int, kept: int, tokens: int) -> None:
    values = problem(tokens, 97, torch.float64)
    found = run(chunked_logps, values, chunk=chunk, kept_bytes=kept)
    for one, wanted in zip(found, exact(values), strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("bias", [True, False])
def test_chunking_costs_at_most_twice_the_eager_error_and_one_rounding(
    dtype: torch.dtype, scale: float, kept: int, bias: bool
) -> None:
    values = problem(50, 301, dtype, scale=scale, bias=bias)
    chunked, eager = run(chunked_logps, values, chunk=64, kept_bytes=kept), run(eager_logps, values)
    for found, twin, wanted in zip(chunked, eager, exact(values), strict=True):
        assert found.dtype == twin.dtype
        slack = 4 * torch.finfo(found.dtype).eps
        assert error(found, wanted) <= 2 * error(twin, wanted) + slack


def test_the_error_over_thousands_of_ids_is_at_most_twice_the_eager_one() -> None:
    values = problem(300, 6000, torch.float32, width=64, scale=0.3)
    for found, twin, wanted in zip(
        run(token_logps, values), run(eager_logps, values), exact(values), strict=True
    ):
        assert error(found, wanted) <= 2 * error(twin, wanted)


def test_gradients_from_bfloat16_products_cost_one_more_rounding() -> None:
    values = problem(50, 301, torch.bfloat16)
    found = run(chunked_logps, values, chunk=64, narrow=True)
    for one, twin, wanted in zip(found, run(eager_logps, values), exact(values), strict=True):
        assert one.dtype == twin.dtype
        assert error(one, wanted) <= 2 * error(twin, wanted) + 4 * torch.finfo(one.dtype).eps


def test_bfloat16_inputs_are_summed_in_float32() -> None:
    values = problem(20, 500, torch.bfloat16)
    found = run(token_logps, values)[0]
    assert found.dtype == torch.float32
    assert error(found, exact(values)[0]) < 1e-6


def test_a_bfloat16_head_of_odd_width_has_the_float64_gradients() -> None:
    values = problem(20, 50, torch.bfloat16, width=23)
    for found, wanted in zip(run(chunked_logps, values, chunk=7), exact(values), strict=True):
        assert error(found, wanted) < 4 * torch.finfo(found.dtype).eps


def test_float32_hidden_states_meet_a_bfloat16_head() -> None:
    values = problem(30, 50, torch.bfloat16)
    hidden = values.hidden.detach().float().requires_grad_()
    mixed = values._replace(hidden=hidden)
    for found, wanted in zip(run(chunked_logps, mixed, chunk=16), exact(mixed), strict=True):
        assert error(found, wanted) < 4 * torch.finfo(found.dtype).eps


def test_logits_in_the_thousands_stay_finite() -> None:
    values = problem(6, 50, torch.float32, scale=1000.0)
    for tensor in run(chunked_logps, values, chunk=16):
        assert tensor.isfinite().all()


def test_ids_that_a_bias_of_minus_infinity_excludes_have_no_part() -> None:
    values = problem(6, 50, torch.float64)
    with torch.no_grad():
        values.head.bias_V[:20] = float("-inf")
    values = values._replace(targets=values.targets % 30 + 20)
    for found, wanted in zip(run(chunked_logps, values, chunk=16), exact(values), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_no_tokens_give_no_log_probs_and_zero_gradients() -> None:
    logp, hidden, weight, bias = run(chunked_logps, problem(0, 30, torch.float32), chunk=8)
    assert logp.shape == (0,)
    assert hidden.shape == (0, 24)
    assert not weight.any()
    assert not bias.any()


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_a_frozen_input_gets_no_gradient_and_the_others_get_theirs(frozen: str) -> None:
    values = problem(40, 60, torch.float64)
    wanted = dict(zip(["hidden", "weight", "bias"], exact(values)[1:], strict=True))
    leaves = dict(zip(wanted, values.leaves, strict=True))
    leaves[frozen].requires_grad_(False)
    logp = chunked_logps(values.hidden, values.head, values.targets, chunk=13, kept_bytes=5 * 60 * 8)
    logp.backward(values.upstream.double())
    for name, leaf in leaves.items():
        if name == frozen:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, wanted[name], rtol=1e-12, atol=1e-12)


def test_a_second_backward_pass_gives_the_same_gradients() -> None:
    values = problem(40, 60, torch.float64)
    logp = chunked_logps(values.hidden, values.head, values.targets, chunk=13)
    upstream = values.upstream.double()
    first, second = (torch.autograd.grad(logp, values.leaves, upstream, retain_graph=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_tied_head_adds_its_gradient_to_the_embeddings() -> None:
    torch.manual_seed(0)
    embedding, head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
    head.weight = embedding.weight
    ids, targets = torch.randint(50, (9,)), torch.randint(50, (9,))
    HeadLogps(head)(embedding(ids).tanh(), targets).sum().backward()
    found, embedding.weight.grad = embedding.weight.grad, None
    F.linear(embedding(ids).tanh(), embedding.weight).log_softmax(-1)[range(9), targets].sum().backward()
    torch.testing.assert_close(found, embedding.weight.grad)


@pytest.mark.parametrize("kept", [0, 40 * 6000 * 4])
def test_no_more_is_alive_than_the_gradients_and_the_stated_budget(kept: int) -> None:
    tokens, vocabulary, width, chunk = 200, 6000, 8, 64
    values = problem(tokens, vocabulary, torch.float32, width=width)
    with LiveBytes() as live:
        logp = chunked_logps(values.hidden, values.head, values.targets, chunk=chunk, kept_bytes=kept)
        between = live.now
        gradients = torch.autograd.grad(logp.sum(), values.leaves)
    returned = sum(one.nbytes for one in gradients)
    tiles, small = 2 * tokens * chunk * 4, 20 * tokens * width * 4
    assert between <= values.head.weight_VD.nbytes + kept + small
    assert live.peak <= returned + kept + tiles + small
    assert live.peak < tokens * vocabulary * 4 / 2


def test_the_meter_of_live_bytes_sees_a_full_matrix() -> None:
    values = problem(200, 6000, torch.float32, width=8)
    with LiveBytes() as live:
        torch.autograd.grad(eager_logps(values.hidden, values.head, values.targets).sum(), values.leaves)
    assert live.peak > 2 * 200 * 6000 * 4


def test_nothing_is_kept_without_gradients() -> None:
    values = problem(200, 6000, torch.float32, width=8)
    with torch.no_grad(), LiveBytes() as live:
        chunked_logps(values.hidden, values.head, values.targets, chunk=64)
    assert live.peak < values.head.weight_VD.nbytes + 2 * 200 * 64 * 4


def test_the_variable_chooses_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    values = problem(200, 40_000, torch.float32, width=4)
    peaks = {}
    for version in ("eager", "chunked"):
        monkeypatch.setenv("HERMES_LOGPS", version)
        with torch.no_grad(), LiveBytes() as live:
            token_logps(values.hidden, values.head, values.targets)
        peaks[version] = live.peak
    assert peaks["eager"] > 200 * 40_000 * 4 > 2 * peaks["chunked"]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("fast", "HERMES_LOGPS is 'fast'; take eager, chunked or triton"),
        ("triton", "HERMES_LOGPS is triton, but the tensors are on cpu; take chunked"),
    ],
)
def test_a_version_that_cannot_run_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch, named: str, message: str
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("HERMES_LOGPS", named)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    values = problem(2, 5, torch.float32)
    with pytest.raises(ConfigError) as caught:
        token_logps(values.hidden, values.head, values.targets)
    assert str(caught.value) == message


@pytest.mark.parametrize("target", [-100, 30])
def test_a_target_outside_the_head_is_refused(target: int) -> None:
    values = problem(3, 30, torch.float32)
    with pytest.raises(IndexError, match="outside"):
        token_logps(values.hidden, values.head, torch.full((3,), target))


@settings(max_examples=30)
@given(
    tokens=st.integers(1, 30),
    vocabulary=st.integers(2, 70),
    chunk=st.integers(1, 80),
    kept=st.integers(0, 10_000),
)
def test_probabilities_of_all_targets_sum_to_one(tokens: int, vocabulary: int, chunk: int, kept: int) -> None:
    values = problem(tokens, vocabulary, torch.float64, seed=tokens)
    total = sum(
        chunked_logps(values.hidden, values.head, torch.full((tokens,), v), chunk, kept).exp()
        for v in range(vocabulary)
    )
    torch.testing.assert_close(total, torch.ones(tokens, dtype=torch.float64))


@settings(max_examples=30)
@given(
    tokens=st.integers(0, 60),
    vocabulary=st.integers(2, 70),
    width=st.integers(1, 40),
    chunk=st.integers(0, 80),
    kept=st.integers(0, 10_000),
    bias=st.booleans(),
)
def test_any_shape_chunk_and_budget_gives_the_eager_gradients(
    tokens: int, vocabulary: int, width: int, chunk: int, kept: int, bias: bool
) -> None:
    values = problem(tokens, vocabulary, torch.float64, bias=bias, width=width)
    found = run(chunked_logps, values, chunk=chunk, kept_bytes=kept)
    for one, wanted in zip(found, exact(values), strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-10, atol=1e-10)
