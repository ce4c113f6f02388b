"""How much shares a forward pass, and what happens where it was too much."""

from __future__ import annotations

import pytest
import torch

from engine.samplers.choices import halving


def test_a_batch_is_halved_until_it_fits_and_this_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    tried = []

    def run(batch: int) -> str:
        tried.append(batch)
        if batch > 6:
            raise torch.OutOfMemoryError
        return "done"

    assert halving(run, 20, "texts") == "done"
    assert capsys.readouterr().err.splitlines() == [
        "20 texts at a time do not fit into the GPU's memory; going on with 10",
        "10 texts at a time do not fit into the GPU's memory; going on with 5",
    ]
    assert tried == [20, 10, 5]


def test_what_does_not_fit_alone_is_an_error() -> None:
    def run(batch: int) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        halving(run, 2, "texts")
