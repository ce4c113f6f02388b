"""A grid of a few runs, run as a user runs it, killed in the middle, and run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

GRID = """
[defaults.curate]
n = 2
limit = 4
image.steps = 2

[defaults.train]
steps = 2
batch_size = 2
trackers = []

[defaults.eval]
split = "validation"
limit = 4
images = 1
image.steps = 2

[[row]]
name = "base"
title = "base model"
rounds = 0

[[row]]
name = "sum"
title = "sum"
seeds = [0]
default = true

[[row]]
name = "und"
title = "captions alone"
seeds = [0]
settings.train.objective = "und"

[[row]]
name = "broken"
title = "a folder that is not there"
seeds = [0]
settings.model = "nowhere"
"""


def command(cwd: Path, *more: str) -> list[str]:
    given = ("--grid", str(cwd / "grid.toml"), "--results", str(cwd / "results.json"), *more)
    return [sys.executable, "-m", "benchmarks.experiment", "--to", str(cwd / "to"), *given]


def experiment(cwd: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(cwd, *more), capture_output=True, text=True, timeout=900, check=False)


def wait_for(what: str, so: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A grid that was killed with all its processes in its second run, and then run to its end."""
    cwd = tmp_path_factory.mktemp("experiment")
    (cwd / "grid.toml").write_text(GRID)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    victim = subprocess.Popen(command(cwd), start_new_session=True, **silent)
    wait_for("the first round", (cwd / "to/sum/seed-0/round-1").is_dir)
    assert victim.poll() is None
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    return cwd, experiment(cwd)


def test_a_killed_grid_goes_on_and_reports_the_run_that_fails(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, done = finished
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("failed") == 1
    assert "broken, seed 0 failed" in done.stderr
    assert "nowhere: no model.safetensors here" in done.stderr
    found = json.loads((cwd / "results.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert [rows[name]["complete"] for name in ("base", "sum", "und", "broken")] == [True, True, True, False]
    assert found["summary"]["row"] == "sum"
    assert found["summary"]["split"] == found["split"] == "validation"
    assert found["summary"]["seeds"] == [0]
    one = rows["sum"]["rounds"][1]
    assert one["und_gain_ci"][0] <= one["und_gain"] <= one["und_gain_ci"][1]
    assert one["gap"] == pytest.approx(one["und"] - one["gen"], abs=1e-5)
    assert rows["und"]["rounds"][1]["versus_default"] is not None
    assert rows["sum"]["rounds"][0]["und"] == rows["base"]["rounds"][0]["und"]


def test_runs_have_the_same_base_and_pairs_and_differ_in_their_weights(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, _ = finished
    first, second = (cwd / "to" / name / "seed-0" for name in ("sum", "und"))
    for name in ("round-1/curate/pairs.jsonl", "round-0/eval.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    weights = [(one / "round-1/checkpoint/model.safetensors").read_bytes() for one in (first, second)]
    assert weights[0] != weights[1]


def test_a_finished_grid_does_nothing_again(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, _ = finished
    planned = experiment(cwd, "--dry-run", "--rows", "base,sum,und")
    assert [line.split(":")[0] for line in planned.stdout.splitlines()] == [
        "base, seed 0",
        "sum, seed 0",
        "und, seed 0",
    ]
    before = json.loads((cwd / "results.json").read_text())
    weights = (cwd / "to/sum/seed-0/round-1/checkpoint/model.safetensors").stat().st_mtime_ns
    again = experiment(cwd, "--rows", "base,sum,und")
    assert again.returncode == 0, again.stderr
    assert (cwd / "to/sum/seed-0/round-1/checkpoint/model.safetensors").stat().st_mtime_ns == weights
    after = json.loads((cwd / "results.json").read_text())
    del before["machine"], after["machine"]
    assert before == after
