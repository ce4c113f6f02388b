"""SIGKILL at random moments and before random file operations: nothing is lost, nothing differs."""

from __future__ import annotations

from pathlib import Path

import pytest
from training import CONFIG

from benchmarks.train_kills import Job, attempt, endure
from train.command import precompute


@pytest.fixture
def jobs(tmp_path: Path, pairs_file: Path, checkpoint: Path) -> tuple[Job, Job]:
    store = precompute(pairs_file, checkpoint, tmp_path / "refs.zarr", CONFIG)
    one, two = (Job(pairs_file, checkpoint, tmp_path / name, store, CONFIG) for name in ("killed", "whole"))
    return one, two


def test_a_run_that_was_killed_again_and_again_ends_as_if_it_had_not_been(jobs: tuple[Job, Job]) -> None:
    killed, whole = jobs
    _, longest = attempt(whole)
    outcome = endure(killed, whole, kills=8, longest=longest, operations=60, seed=0)
    assert outcome.lost == 0
    assert outcome.repeated == 0
    assert outcome.identical
