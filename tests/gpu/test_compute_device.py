"""Which device is taken, and the one line where there is none that will do."""

from __future__ import annotations

import pytest
import torch

from engine.devices import compute_device
from engine.errors import EngineError


def built_for(monkeypatch: pytest.MonkeyPatch, cuda: str | None, card: tuple[int, int] | None = None) -> None:
    """A build of torch for CUDA, or none, on a machine with a card of some capability, or none."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A card")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_the_build_of_torch_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    built_for(monkeypatch, None, (9, 0))
    assert compute_device() == torch.device("cpu")
    for capability in ((8, 0), (9, 0), (12, 1)):
        built_for(monkeypatch, "13.0", capability)
        assert compute_device() == torch.device("cuda", 0)


def test_no_card_and_an_old_driver_are_one_line_with_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    built_for(monkeypatch, "13.0")
    with pytest.raises(EngineError, match=r"finds no GPU: .* older than 580 .*`make setup DEVICE=cpu`$"):
        compute_device()


def test_an_old_card_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    built_for(monkeypatch, "13.0", (7, 5))
    with pytest.raises(EngineError, match=r"A card has compute capability 7\.5, Hermes needs 8\.0"):
        compute_device()


def test_other_platforms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    built_for(monkeypatch, None)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with pytest.raises(EngineError, match="built for neither CPUs nor NVIDIA GPUs; run `make setup`"):
        compute_device()
