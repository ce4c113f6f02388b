"""`hermes run`, killed while it works: nothing is lost, nothing differs."""

from __future__ import annotations

import pytest

from benchmarks.resilience.run_kills import RunKillSettings, at_work, measure


@pytest.mark.slow
def test_a_run_that_was_killed_in_training_and_in_the_swap_ends_as_if_it_had_not_been() -> None:
    report = measure(RunKillSettings(items=8, n=4, steps=6, kills=2, seed=1), first=2)
    assert [one.aimed for one in report.kills] == ["train of round 1", "swap of round 1"]
    assert [name for run in report.runs for name, same in run.items() if not same] == []


def test_the_stage_that_a_kill_hit_is_the_one_that_had_begun() -> None:
    begun = {"round": 2, "stage": "train", "event": "begun"}
    run = {"round": 0, "stage": "run", "event": "begun"}
    assert at_work([begun, run]) == (2, "train")
    assert at_work([begun, {**begun, "event": "done"}]) == (2, "between, after train")
