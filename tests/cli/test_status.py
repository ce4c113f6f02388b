"""`hermes status` as a user types it, on runs made by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from made_run import DEAD, made_run, save_curation, save_events
from typer.testing import CliRunner

from engine.errors import ConfigError
from hermes_cli.main import app
from hermes_cli.run.event_log import Event, Process, logged


def status(run: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["status", str(run), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def stages(run: Path, number: int) -> dict[str, dict[str, Any]]:
    found = json.loads(status(run, "--json"))
    return {one["stage"]: one for one in found["rounds"][number]["stages"]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_run(tmp_path / "run")


def test_a_finished_run_is_done_with_its_counts_and_times(run: Path) -> None:
    for number in (1, 2):
        (run / f"round-{number}/reference.zarr").mkdir()
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    found = stages(run, 1)
    assert {one["state"] for one in found.values()} == {"done"}
    assert {name: (one["done"], one["total"]) for name, one in found.items()} == {
        "curate": (3, 3),
        "reference": (3, 3),
        "train": (4, 4),
        "eval": (20, 20),
    }
    assert found["eval"]["seconds"] == 1
    assert "20/20" in status(run)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")), "it only looks"


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({"steps": 50, "max_epochs": 2.0, "batch_size": 1}, 14),
        ({"steps": 50, "max_epochs": 2.0, "batch_size": 1, "warmup": 20}, None),
        ({"steps": 50}, 50),
    ],
)
def test_steps_before_there_are_pairs_are_those_that_the_items_leave(
    tmp_path: Path, settings: dict[str, Any], total: int | None
) -> None:
    run = tmp_path / "run"
    (run / "round-1/checkpoint.training").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"curate": {"limit": 7}, "train": settings}))
    assert stages(run, 1)["train"]["total"] == total


@pytest.mark.parametrize("select", [0, 5])
def test_steps_of_a_whole_data_set_are_not_bounded_before_there_are_pairs(
    tmp_path: Path, select: int
) -> None:
    run = tmp_path / "run"
    (run / "round-1/checkpoint.training").mkdir(parents=True)
    train = {"steps": 50, "max_epochs": 2.0, "batch_size": 1}
    (run / "run.json").write_text(json.dumps({"curate": {"limit": 0, "select": select}, "train": train}))
    assert stages(run, 1)["train"]["total"] == (10 if select else 50)


def test_disk_use_is_that_of_the_files(run: Path) -> None:
    found = json.loads(status(run, "--json"))
    sizes = [
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for folder in (run / "round-0", run / "round-1", run / "round-2")
    ]
    assert [one["bytes"] for one in found["rounds"]] == sizes
    assert found["bytes"] == sum(sizes) + sum(
        (run / name).stat().st_size for name in ("run.json", "events.jsonl")
    )


def test_what_has_not_begun_waits_and_what_was_killed_is_stopped(tmp_path: Path) -> None:
    save_curation(tmp_path, 1)
    (tmp_path / "round-1/curate/pairs.jsonl").unlink()
    (tmp_path / "run.json").write_text(json.dumps({"curate": {"limit": 8}, "train": {"steps": 30}}))
    save_events(tmp_path, Event(1, "curate", "begun", process=DEAD), Event(1, "curate", "progress", done=3))
    found = stages(tmp_path, 1)
    assert (found["curate"]["state"], found["curate"]["done"], found["curate"]["total"]) == ("stopped", 3, 8)
    assert (found["train"]["state"], found["train"]["total"]) == ("waiting", 30)
    assert "0/30" in status(tmp_path)


def test_a_running_stage_has_a_rate_and_an_end(run: Path) -> None:
    (run / "round-2/checkpoint/model.safetensors").unlink()
    started = time.time() - 10
    with logged(run / "events.jsonl", 2, "train"):
        for ago, done in ((10.0, 2), (0.0, 4)):
            save_events(
                run,
                Event(2, "train", "progress", time=started + 10 - ago, done=done, total=8, seconds=10 - ago),
            )
        train = stages(run, 2)["train"]
        # 4 of 8 steps are done, 2 of them in these 10 s: 20 s are left.
        assert (train["state"], train["done"], train["total"]) == ("running", 4, 8)
        assert train["note"] == f"process {os.getpid()}"
        assert train["eta_seconds"] == pytest.approx(20, abs=2)
        assert train["seconds"] == pytest.approx(10, abs=1)
        assert "running" in status(run)
    (run / "round-2/eval.json").unlink()
    with pytest.raises(KeyboardInterrupt), logged(run / "events.jsonl", 2, "eval", resumes=False):
        raise KeyboardInterrupt
    assert stages(run, 2)["eval"]["state"] == "stopped"


def test_the_rate_is_that_of_the_latter_half(run: Path) -> None:
    now = time.time()
    # Rows that were there already pass by at once; of those that are sampled, 2 take 5 s.
    points = [(100, 0), (99, 500), *((99 - 5 * i, 500 + 2 * i) for i in range(1, 20))]
    save_events(run, Event(2, "curate", "begun"))
    for ago, done in points:
        save_events(run, Event(2, "curate", "progress", time=now - ago, done=done, total=600))
    assert stages(run, 2)["curate"]["eta_seconds"] == pytest.approx((600 - 538) * 2.5, rel=0.1)


def test_an_evaluation_counts_its_items_as_they_come(run: Path) -> None:
    with logged(run / "events.jsonl", 2, "eval", resumes=False, total=50) as stage:
        (run / "round-2/eval.json").unlink()
        stage.advance(32)
        found = stages(run, 2)["eval"]
        assert (found["state"], found["done"], found["total"]) == ("running", 32, 50)


def test_a_killed_process_is_not_running_even_if_its_number_is_taken_again(run: Path) -> None:
    (run / "round-2/eval.json").unlink()
    ours = Process.this()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    elsewhere = msgspec.structs.replace(DEAD, host="elsewhere")
    for process, wanted in (
        (ours, "running"),
        (msgspec.structs.replace(ours, pid=child.pid), "stopped"),
        (DEAD, "stopped"),
        (elsewhere, "running"),
    ):
        save_events(run, Event(2, "eval", "begun", process=process))
        assert stages(run, 2)["eval"]["state"] == wanted
    assert stages(run, 2)["eval"]["note"] == f"process {ours.pid} on elsewhere"


def test_a_stage_that_goes_on_counts_what_is_there_once(run: Path) -> None:
    (run / "round-2/curate/curate.json").unlink()
    for _ in range(2):
        with suppress(KeyboardInterrupt), logged(run / "events.jsonl", 2, "curate", total=9) as stage:
            stage.advance(2)
            stage.advance(1)
            raise KeyboardInterrupt
        found = stages(run, 2)["curate"]
        assert (found["state"], found["done"], found["total"]) == ("stopped", 3, 9)


def test_what_was_done_and_is_removed_waits(run: Path) -> None:
    (run / "round-2/checkpoint/model.safetensors").unlink()
    found = stages(run, 2)["train"]
    assert (found["state"], found["done"], found["total"]) == ("waiting", 0, 4)


def test_a_run_of_an_earlier_version_is_said_to_be_one_and_read_as_far_as_its_files_go(run: Path) -> None:
    (run / "events.jsonl").rename(run / "log.jsonl")
    found = json.loads(status(run, "--json"))
    assert (found["request"], found["eta_seconds"], found["last"]) == (None, 0, None)
    states = [
        one["state"] for each in found["rounds"] for one in each["stages"] if one["stage"] != "reference"
    ]
    assert set(states) == {"done"}
    assert "log.jsonl comes from an earlier version" in found["note"]
    assert "log.jsonl comes from an earlier version" in " ".join(status(run).split())


def test_it_imports_nothing_heavy(run: Path) -> None:
    code = (
        "import sys; sys.argv[1:] = ['status', sys.argv[1]]\n"
        "from hermes_cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'vllm', 'numpy', 'scipy', 'zarr', 'pyarrow', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "base" in done.stdout


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_no_run_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "hermes_cli.main", "status", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no run in this folder" in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_a_run_is_named_as_an_argument_or_by_run_and_of_two_neither_is_taken(run: Path) -> None:
    """As the commands that work on a run want it, and as those do that look at one."""
    ask = CliRunner().invoke
    plain, named = ask(app, ["status", str(run)]), ask(app, ["status", "--run", str(run)])
    assert plain.exit_code == named.exit_code == 0
    assert plain.output == named.output
    both = ask(app, ["status", str(run), "--run", str(run.parent / "other")])
    assert isinstance(both.exception, ConfigError)
    assert "two runs are named" in str(both.exception)
