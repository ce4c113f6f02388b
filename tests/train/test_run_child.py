"""The training that `hermes run` starts, on a tiny model: it takes ranks along, and ends with its parent."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from training import CONFIG

from engine.errors import HermesError
from hermes_cli.run.event_log import read_events
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import RunSettings, store_settings, stored_settings
from hermes_cli.stages.self_play import train_in_child

RUN = """
import sys
from pathlib import Path
from hermes_cli.stages.self_play import train_in_child
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import stored_settings
root = Path(sys.argv[1])
settings = stored_settings(root / "run.json")
train_in_child(RunFolder(root, settings.model), settings, 1)
"""


@pytest.fixture
def run(tmp_path: Path, checkpoint: Path, pairs_file: Path) -> tuple[RunFolder, RunSettings]:
    folder = RunFolder(tmp_path / "run", str(checkpoint))
    folder.curation(1).mkdir(parents=True)
    pairs_file.rename(folder.pairs(1))
    settings = RunSettings(model=str(checkpoint), train=msgspec.structs.replace(CONFIG, steps=100_000))
    store_settings(folder.settings, settings)
    return folder, settings


def is_free(lock: Path) -> bool:
    handle = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def wait_for(what: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_training_ends_with_the_run_that_was_killed(run: tuple[RunFolder, RunSettings]) -> None:
    folder, _ = run
    parent = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder.root)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    metrics = folder.training(1) / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and metrics.stat().st_size)
    assert not is_free(folder.training(1) / "lock")
    # Only the parent: nobody tells the child.
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: is_free(folder.training(1) / "lock"), 10)


def test_a_run_trains_with_its_own_settings_and_ranks(
    run: tuple[RunFolder, RunSettings], capfd: pytest.CaptureFixture[str]
) -> None:
    """Three ranks cannot share a batch of 4, which the child says itself."""
    folder, settings = run
    changed = msgspec.structs.replace(settings, seed=9)
    store_settings(folder.settings, changed)
    with pytest.raises(HermesError, match="training round 1 stopped with status 1; the same `hermes run`"):
        train_in_child(folder, settings, 1, ranks=3)
    assert "batch_size is 4" in capfd.readouterr().err
    assert stored_settings(folder.settings).seed == settings.seed
    (line,) = read_events(folder.events)
    assert (line.round, line.stage, line.event) == (1, "train", "failed")


def test_what_a_training_says_itself_is_not_said_again(run: tuple[RunFolder, RunSettings]) -> None:
    folder, settings = run
    broken = msgspec.structs.replace(settings.train, learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(HermesError, match="stopped with status 1"):
        train_in_child(folder, msgspec.structs.replace(settings, train=broken), 1)
    found = [(one.stage, one.event) for one in read_events(folder.events) if one.event != "progress"]
    assert found == [("reference", "begun"), ("reference", "done"), ("train", "begun"), ("train", "failed")]
    assert "lower learning_rate" in read_events(folder.events)[-1].reason
    assert folder.seconds(1)["train"] > 0
