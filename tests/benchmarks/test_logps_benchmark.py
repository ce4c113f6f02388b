"""The log-prob comparison runs on a tiny size, with no claim about time."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed.logps import compare, errors, memory_apart, smaller
from benchmarks.speed.logps_sides import LogpsProblem, SideName, forward, make_inputs

TINY = LogpsProblem(tokens=512, hidden=32, vocabulary=3000)


def test_every_side_has_a_row_with_its_time_or_the_reason_for_none() -> None:
    sides: tuple[SideName, ...] = ("ours", "log_softmax", "liger")
    rows = compare(TINY, sides, repeats=1, warmups=0)
    assert tuple(row.side for row in rows) == sides
    assert all(row.seconds or row.reason for row in rows)
    assert rows[0].ratio == 1.0


def test_errors_are_those_of_float32() -> None:
    for row in errors(smaller(TINY, TINY)):
        assert row.figures.keys() == {"log-probs", "hidden", "weight", "bias"}
        assert all(0 < value < 1e-4 for value in row.figures.values())


def test_full_logits_take_more_memory_than_ours() -> None:
    problem = LogpsProblem(tokens=2048, hidden=64, vocabulary=20_000)
    ours, full = memory_apart("ours", problem), memory_apart("log_softmax", problem)
    assert full > 2 * 2048 * 20_000 * 4 / 2**20 > ours


@pytest.mark.parametrize("side", ["liger", "cut_cross_entropy"])
def test_a_foreign_side_gives_our_log_probs(side: SideName) -> None:
    pytest.importorskip({"liger": "liger_kernel", "cut_cross_entropy": "cut_cross_entropy"}[side])
    inputs = make_inputs(TINY)
    if side == "cut_cross_entropy":
        with torch.no_grad():
            inputs.bias_V.zero_()
    torch.testing.assert_close(
        forward(side, inputs).logp_T, forward("ours", inputs).logp_T, rtol=1e-4, atol=1e-4
    )
