"""SIGKILL at random moments and before random file operations: nothing is lost, nothing differs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from training import CONFIG

from benchmarks.resilience.train_kills import Job, attempt, compare, discard, endure
from train.command import precompute
from train.reference.inputs import read_inputs

EVERYTHING = msgspec.structs.replace(CONFIG, keep=2, trackers=("tensorboard",), weight_averaging=0.5)


@pytest.fixture
def jobs(tmp_path: Path, pairs_file: Path, checkpoint: Path) -> tuple[Job, Job]:
    store = precompute(read_inputs(pairs_file, checkpoint, CONFIG), tmp_path / "refs.zarr")
    one, two = (Job(pairs_file, checkpoint, tmp_path / name, store, CONFIG) for name in ("killed", "whole"))
    return one, two


def test_a_run_that_was_killed_again_and_again_ends_as_if_it_had_not_been(jobs: tuple[Job, Job]) -> None:
    killed, whole = jobs
    _, longest = attempt(whole)
    outcome = endure(killed, whole, kills=8, longest=longest, operations=60, seed=0)
    assert outcome.lost == 0
    assert outcome.repeated == 0
    assert outcome.identical


@pytest.mark.slow
def test_before_no_operation_on_a_file_is_a_kill_felt(jobs: tuple[Job, Job]) -> None:
    """Every operation of a run in turn, with two states and event files in play."""
    killed, whole = (
        job._replace(config=msgspec.structs.replace(EVERYTHING, steps=3, save_every=1)) for job in jobs
    )
    attempt(whole)
    operation = 0
    while True:
        operation += 1
        interrupted, _ = attempt(killed, operation)
        if not interrupted:
            break
        attempt(killed)
        end = compare(killed, whole)
        assert (end.lost, end.identical) == (0, True), f"killed before operation {operation}"
        discard(killed)
    assert operation > 40
