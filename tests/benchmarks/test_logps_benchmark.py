"""The log-prob comparison runs on a tiny size, with no claim about time."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed.logps import measure, table
from benchmarks.speed.logps_memory import Memory, measure_apart
from benchmarks.speed.logps_sides import Size, forward, make_inputs

TINY = Size(tokens=512, hidden=32, vocabulary=3000)


def test_every_side_has_a_row_with_its_time_or_the_reason_for_none() -> None:
    sides = ("ours", "products", "log_softmax", "liger")
    report = measure(TINY, sides, repeats=1, warmups=0, with_memory=False)
    assert [row.side for row in report.rows] == list(sides)
    assert all(row.median or row.reason for row in report.rows)
    assert report.rows[0].ratio == 1.0
    assert len(table(report).splitlines()) == 1 + len(sides) + 1 + len(report.errors)


def test_full_logits_take_more_memory_than_ours() -> None:
    size = Size(tokens=2048, hidden=64, vocabulary=20_000)
    ours, full = measure_apart("ours", size), measure_apart("log_softmax", size)
    assert isinstance(ours, Memory)
    assert isinstance(full, Memory)
    assert full.peak > 2 * 2048 * 20_000 * 4 > ours.peak


@pytest.mark.parametrize("side", ["liger", "cut_cross_entropy"])
def test_a_foreign_side_gives_our_log_probs(side: str) -> None:
    pytest.importorskip({"liger": "liger_kernel", "cut_cross_entropy": "cut_cross_entropy"}[side])
    inputs = make_inputs(TINY)
    if side == "cut_cross_entropy":
        with torch.no_grad():
            inputs.bias_V.zero_()
    torch.testing.assert_close(
        forward(side, inputs).value, forward("ours", inputs).value, rtol=1e-4, atol=1e-4
    )
