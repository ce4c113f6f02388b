"""Weights in shared memory: offered, taken, and gone afterwards, also where somebody was killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoints.weights import fingerprint
from engine.errors import CheckpointError
from engine.files.layout import WEIGHTS
from engine.transport.shared import INBOX, PREFIX, ROOT, Inbox, offer_weights, sweep_inboxes

HOLD = """
import sys
from engine.transport.shared import Inbox
inbox = Inbox()
(inbox.folder / "model.safetensors").write_bytes(b"x" * 1000)
print(inbox.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    opened = Inbox()
    yield opened
    opened.close()


def left() -> set[Path]:
    return set(ROOT.glob(f"{PREFIX}{os.getuid()}-*"))


def test_what_is_offered_is_the_checkpoint_byte_for_byte(
    inbox: Inbox, checkpoints: tuple[Path, Path]
) -> None:
    state = load_file(checkpoints[0] / WEIGHTS)
    assert offer_weights(state, checkpoints[0])
    assert (inbox.folder / WEIGHTS).read_bytes() == (checkpoints[0] / WEIGHTS).read_bytes()
    found = inbox.delivery(checkpoints[0])
    assert found is not None
    assert found.fingerprint() == fingerprint(checkpoints[0])
    assert inbox.delivery(checkpoints[1]) is None


def test_a_settled_delivery_leaves_nothing_and_a_closed_inbox_not_even_a_folder(
    checkpoints: tuple[Path, Path],
) -> None:
    before = left()
    opened = Inbox()
    assert offer_weights(load_file(checkpoints[0] / WEIGHTS), checkpoints[0])
    found = opened.delivery(checkpoints[0])
    assert found is not None
    found.settled()
    assert not (opened.folder / WEIGHTS).exists()
    assert opened.delivery(checkpoints[0]) is None
    opened.close()
    opened.close()
    assert left() == before
    assert INBOX not in os.environ


def test_other_weights_than_the_checkpoints_are_not_taken(
    inbox: Inbox, checkpoints: tuple[Path, Path]
) -> None:
    state = load_file(checkpoints[0] / WEIGHTS)
    name = next(iter(state))
    assert offer_weights({**state, name: state[name] + 1}, checkpoints[0])
    found = inbox.delivery(checkpoints[0])
    assert found is not None
    with pytest.raises(CheckpointError, match="the next try loads it from disk"):
        found.fingerprint()


def test_a_later_offer_takes_the_place_of_an_earlier_one(
    inbox: Inbox, checkpoints: tuple[Path, Path]
) -> None:
    for checkpoint in checkpoints:
        assert offer_weights(load_file(checkpoint / WEIGHTS), checkpoint)
    assert inbox.delivery(checkpoints[0]) is None
    assert inbox.delivery(checkpoints[1]) is not None


def test_nobody_is_offered_anything_where_no_engine_waits(checkpoints: tuple[Path, Path]) -> None:
    state = {"a": torch.zeros(1)}
    assert INBOX not in os.environ
    assert not offer_weights(state, checkpoints[0])


def test_what_a_killed_engine_left_is_not_filled_and_is_removed_at_the_next_start(
    checkpoints: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    folder = Path(holder.stdout.readline().strip())
    monkeypatch.setenv(INBOX, str(folder))
    try:
        sweep_inboxes()
        assert (folder / WEIGHTS).is_file(), "its owner lives"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert not offer_weights({"a": torch.zeros(1)}, checkpoints[0])
        sweep_inboxes()
        assert not folder.exists()
    finally:
        holder.kill()
        holder.wait()


def test_a_checkpoint_that_does_not_fit_into_shared_memory_is_left_on_disk(
    inbox: Inbox, tmp_path: Path
) -> None:
    with (tmp_path / WEIGHTS).open("wb") as stream:
        stream.truncate(shutil.disk_usage(ROOT).free + (1 << 30))
    assert not offer_weights({"a": torch.zeros(1)}, tmp_path)
    assert inbox.delivery(tmp_path) is None


def test_a_torn_offer_counts_as_none(inbox: Inbox, checkpoints: tuple[Path, Path]) -> None:
    save_file({"a": torch.zeros(1)}, inbox.folder / WEIGHTS)
    (inbox.folder / "offer.json").write_bytes(b'{"checkpoint": "')
    assert inbox.delivery(checkpoints[0]) is None
