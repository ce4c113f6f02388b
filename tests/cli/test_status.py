"""`hermes status` as a user types it, on runs made by hand."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from made_run import made_run, save_curation
from typer.testing import CliRunner

from engine.errors import ConfigError
from hermes_cli.main import app
from hermes_cli.run.folder import RunFolder
from hermes_cli.run.heartbeat import announced, read_running
from hermes_cli.run.progress import units_done


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
        ({"steps": 50, "most_visits": 2.0, "batch": 1}, 14),
        ({"steps": 50, "most_visits": 2.0, "batch": 1, "warmup": 20}, None),
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
    train = {"steps": 50, "most_visits": 2.0, "batch": 1}
    (run / "run.json").write_text(json.dumps({"curate": {"limit": 0, "select": select}, "train": train}))
    assert stages(run, 1)["train"]["total"] == (10 if select else 50)


def test_disk_use_is_that_of_the_files(run: Path) -> None:
    found = json.loads(status(run, "--json"))
    sizes = [
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for folder in (run / "round-0", run / "round-1", run / "round-2")
    ]
    assert [one["bytes"] for one in found["rounds"]] == sizes
    assert found["bytes"] == sum(sizes) + (run / "run.json").stat().st_size


def test_what_has_not_begun_waits_and_what_was_killed_is_stopped(tmp_path: Path) -> None:
    save_curation(tmp_path, 1)
    (tmp_path / "round-1/curate/pairs.jsonl").unlink()
    (tmp_path / "run.json").write_text(json.dumps({"curate": {"limit": 8}, "train": {"steps": 30}}))
    found = stages(tmp_path, 1)
    assert (found["curate"]["state"], found["curate"]["done"], found["curate"]["total"]) == ("stopped", 3, 8)
    assert (found["train"]["state"], found["train"]["total"]) == ("waiting", 30)
    assert "0/30" in status(tmp_path)


def test_a_running_stage_has_a_rate_and_an_end(run: Path) -> None:
    path = run / "round-2/running.json"
    (run / "round-2/checkpoint/model.safetensors").unlink()
    with announced(path, "train", first=2, total=None):
        now = read_running(path)
        assert now is not None
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(now, started=time.time() - 10)))
        settings = json.dumps({"train": {"steps": 8, "warmup": 1}})
        (run / "run.json").write_text(settings)
        train = stages(run, 2)["train"]
        # 4 of 8 steps are done, 2 of them in these 10 s: 20 s are left.
        assert train["state"] == "running"
        assert train["eta_seconds"] == pytest.approx(20, abs=2)
        assert train["seconds"] == pytest.approx(10, abs=1)
        assert "running" in status(run)
    assert stages(run, 2)["train"]["state"] == "stopped"
    assert not path.exists()


def test_an_evaluation_counts_its_items_as_they_come(run: Path) -> None:
    with announced(run / "round-2/running.json", "eval", first=0, total=50) as announcement:
        (run / "round-2/eval.json").unlink()
        announcement.advance(32)
        found = stages(run, 2)["eval"]
        assert (found["state"], found["done"], found["total"]) == ("running", 32, 50)


def test_a_killed_process_is_not_running_even_if_its_number_is_taken_again(run: Path) -> None:
    path = run / "round-2/running.json"
    with announced(path, "eval", first=0, total=20):
        now = read_running(path)
        assert now is not None
        (run / "round-2/eval.json").unlink()
        assert stages(run, 2)["eval"]["state"] == "running"
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        for changed in ({"pid": child.pid}, {"born": "1"}):
            path.write_bytes(msgspec.json.encode(msgspec.structs.replace(now, **changed)))
            assert stages(run, 2)["eval"]["state"] == "stopped"


def test_rows_of_sealed_and_open_shards_are_counted_once(tmp_path: Path) -> None:
    save_curation(tmp_path, 1)
    folder = RunFolder(tmp_path, "")
    shards = tmp_path / "round-1/curate/candidates"
    line = (shards / "000000.jsonl").read_bytes().splitlines(keepends=True)[0]
    (shards / "000001.open.jsonl").write_bytes(line * 4 + line[:20])
    (shards / "000000.open.jsonl").write_bytes(line * 3)
    assert units_done(folder, 1, "curate") == 3 + 4


def test_a_held_lock_is_seen_and_not_disturbed(run: Path) -> None:
    assert json.loads(status(run, "--json"))["locked"] is False
    handle = os.open(run / "round-2/curate/lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        found = json.loads(status(run, "--json"))
        assert [one["locked"] for one in found["rounds"]] == [False, False, True]
        assert "held open by a process" in status(run)
    finally:
        os.close(handle)


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
