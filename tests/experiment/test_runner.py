"""Tasks are brought to their end, what fails is told, and nothing outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.experiment.__main__ import main, options, run
from benchmarks.experiment.cells import LOG, Task
from benchmarks.experiment.runner import Runner, cores_for, held, last_line
from benchmarks.experiment.settings import CellSettings
from engine.errors import BusyError, ConfigError, StaleError

GRID = """
[[row]]
name = "sum"
title = "sum"
default = true
"""


class Command(Task, kw_only=True):
    """Any command of `hermes`; it is done when its log has a word."""

    words: tuple[str, ...]
    after: tuple[Path, ...] = ()
    wanted: str = "Usage"

    @property
    def needs(self) -> tuple[Path, ...]:
        return self.after

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words

    def done(self) -> bool:
        path = self.folder / LOG
        return path.is_file() and self.wanted in path.read_text()


def command(folder: Path, *words: str, after: tuple[Path, ...] = (), wanted: str = "Usage") -> Command:
    return Command(folder=folder, settings=CellSettings(), words=words, after=after, wanted=wanted)


def test_a_failure_is_told_with_its_last_line_and_the_others_go_on(tmp_path: Path) -> None:
    names = ("broken", "behind", "help", "second", "silent")
    broken, behind, good, second, silent = (tmp_path / name for name in names)
    said: list[str] = []
    done: list[str] = []
    tasks = [
        command(broken, "report", str(tmp_path / "nowhere")),
        command(behind, "--help", after=(broken,)),
        command(good, "--help", after=(tmp_path,)),
        command(second, "eval", "--help", after=(good,)),
        command(silent, "--help", wanted="what help does not say"),
    ]
    runner = Runner(tasks, 1, lambda task: None, lambda task: done.append(task.folder.name), said.append)
    failures = {one.task.rpartition("/")[2]: one.line for one in runner.run()}
    assert failures.keys() == {"broken", "behind", "silent"}
    assert failures["broken"].startswith("hermes: ")
    assert "nowhere" in failures["broken"]
    assert failures["behind"] == "not begun: broken failed"
    assert done == ["help", "second"]
    assert runner.left() == "2 of 5 done, 0 left"
    again = Runner(tasks[2:4], 1, lambda task: None, lambda task: None, said.append)
    began = len(said)
    assert again.run() == []
    assert len(said) == began


def test_what_a_runner_starts_has_one_core() -> None:
    core = min(os.sched_getaffinity(0))
    code = "import os; print(os.sched_getaffinity(0))"
    command_ = [sys.executable, "-m", "benchmarks.experiment.supervised", str(core)]
    with subprocess.Popen(
        [*command_, sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read().decode().strip() == f"{{{core}}}"
        assert process.wait() == 0


def test_processes_end_with_who_started_them_however_it_ends(tmp_path: Path) -> None:
    core, child = min(os.sched_getaffinity(0)), tmp_path / "child"
    sleeper = f"import os, time; open({str(child)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    parent = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-m', 'benchmarks.experiment.supervised', sys.argv[1],"
        " sys.executable, '-c', sys.argv[2]], stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    started = subprocess.Popen([sys.executable, "-c", parent, str(core), sleeper])
    until(lambda: child.is_file() and child.read_text().strip() != "")
    pid = int(child.read_text())
    assert alive(pid)
    started.send_signal(signal.SIGKILL)
    started.wait()
    until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(so: object) -> None:
    deadline = time.monotonic() + 30
    while not so():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_more_jobs_than_cores_and_a_second_runner_are_refused(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    for jobs in (0, cores + 1):
        with pytest.raises(ConfigError, match=f"--jobs {jobs}: each job has a core"):
            cores_for(jobs)
    with (
        held(tmp_path),
        pytest.raises(BusyError, match="another process runs this experiment"),
        held(tmp_path),
    ):
        pass


def test_the_last_line_of_a_log_is_the_last_that_says_anything(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"first\n  hermes: no \xff room \n\n \n")
    assert last_line(tmp_path / "log").startswith("hermes: no")
    assert last_line(tmp_path / "none") == "it left no line"


def given(tmp_path: Path, *more: str) -> list[str]:
    (tmp_path / "grid.toml").write_text(GRID)
    base = ["--grid", str(tmp_path / "grid.toml"), "--to", str(tmp_path / "to")]
    return [*base, "--results", str(tmp_path / "results.json"), *more]


def test_a_dry_run_says_what_is_shared_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(options().parse_args(given(tmp_path, "--dry-run", "--seeds", "1,2"))) == []
    printed = capsys.readouterr().out
    assert "sum, seed 1" in printed
    assert "sum, seed 0" not in printed
    assert printed.count("rounds: 1, from base-") == 2
    assert "0 of 4 done; the rest takes about" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"grid.toml"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rows", "none"], "there is no row 'none'"),
        (["--seeds", "a"], "give numbers with commas between"),
        (["--seeds", "9"], "no row has one of them"),
        (["--grid", "none.toml"], "--grid none.toml"),
        (["--jobs", "999"], "--jobs 999"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiment", *given(tmp_path, *more)])
    with pytest.raises(SystemExit) as caught:
        main()
    text = str(caught.value)
    assert text.startswith("experiment: ")
    assert said in text
    assert "\n" not in text


def test_a_second_look_is_refused_before_anything_starts(tmp_path: Path) -> None:
    looks = tmp_path / "experiment-looks.json"
    looks.write_text('[{"row": "sum", "date": "2024-05-01", "settings": "other", "items": 1000}]')
    with pytest.raises(StaleError, match="row sum was looked at"):
        run(options().parse_args(given(tmp_path, "--final")))
    assert not (tmp_path / "to").exists()
    assert run(options().parse_args(given(tmp_path, "--final", "--look-again", "--dry-run"))) == []
    assert "2024-05-01" in looks.read_text()
