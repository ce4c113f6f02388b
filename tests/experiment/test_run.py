"""A grid of two cells, run as a user runs it, killed in the middle, and run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

GRID = """
[defaults.curate]
n = 2
limit = 4
paint.steps = 2

[defaults.train]
steps = 2
batch_size = 2
trackers = []

[defaults.eval]
limit = 4
images = 1
paint.steps = 2

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
shares = "sum"
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


def processes_in(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def wait_for(what: str, so: object, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not so():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run that was killed while it trained its first cell, and then run to its end."""
    cwd = tmp_path_factory.mktemp("experiment")
    (cwd / "grid.toml").write_text(GRID)
    victim = subprocess.Popen(command(cwd), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("the first cell", lambda: list((cwd / "to/cells").glob("sum-*/seed-0/log.txt")))
    time.sleep(1.0)
    assert victim.poll() is None
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    wait_for("the end of all its processes", lambda: not processes_in(cwd), 20)
    return cwd, experiment(cwd)


def test_a_killed_grid_goes_on_and_reports_the_cell_that_fails(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, done = finished
    assert done.returncode == 1
    assert "broken" in done.stderr
    assert "nowhere: no model.safetensors here" in done.stderr
    assert done.stderr.count("failed") <= 4
    # The base and the curation were complete when it was killed.
    assert "base-" not in "".join(
        line for line in done.stdout.splitlines() if "began" in line and "FAILED" in line
    )
    found = json.loads((cwd / "results.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert [rows[name]["complete"] for name in ("base", "sum", "und", "broken")] == [True, True, True, False]
    assert found["summary"]["row"] == "sum"
    assert found["summary"]["split"] == found["split"] == "validation"
    assert found["summary"]["seeds"] == [0]
    one = rows["sum"]["rounds"][1]
    assert one["und_gain_ci"][0] <= one["und_gain"] <= one["und_gain_ci"][1]
    assert one["gap"] == pytest.approx(one["und"] - one["gen"], abs=1e-5)
    assert one["pairs"]["items"] == 4
    assert one["trained"]["steps"] == 2
    assert {"curate", "train", "eval"} <= one["seconds"].keys()
    assert rows["und"]["rounds"][1]["trained"]["image_margin"] is None
    assert rows["und"]["rounds"][1]["versus_default"] is not None
    assert rows["sum"]["rounds"][0]["und"] == rows["base"]["rounds"][0]["und"]


def test_cells_share_base_and_curation_and_differ_in_their_weights(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, _ = finished
    (first,), (second,) = ((cwd / "to/cells").glob(f"{name}-*/seed-0") for name in ("sum", "und"))
    for name in ("round-1/curate/pairs.jsonl", "round-1/curate/origin.json", "round-0/eval.json"):
        assert (first / name).stat().st_ino == (second / name).stat().st_ino
    assert not (first / "round-1/curate/lock").exists()
    weights = [(one / "round-1/checkpoint/model.safetensors").read_bytes() for one in (first, second)]
    assert weights[0] != weights[1]
    printed = (first / "log.txt").read_text() + (second / "log.txt").read_text()
    assert "curate round 1" not in printed
    assert "evaluate base" not in printed


def test_a_finished_grid_starts_nothing_and_says_what_there_is(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, _ = finished
    before = (cwd / "results.json").read_bytes()
    planned = experiment(cwd, "--dry-run", "--rows", "base,sum,und")
    assert "4 of 4 done" in planned.stdout
    assert "rounds: 1, from base-" in planned.stdout
    again = experiment(cwd, "--rows", "base,sum,und")
    assert again.returncode == 0, again.stderr
    assert "began" not in again.stdout
    ours, theirs = json.loads((cwd / "results.json").read_text()), json.loads(before)
    del ours["machine"], theirs["machine"]
    assert ours == theirs
