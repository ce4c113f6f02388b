"""Brings tasks to their end, some side by side, each on a core of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.experiment.cells import LOG, Task
from benchmarks.experiment.estimate import rates, seconds_left, told
from engine.errors import ConfigError, HermesError
from engine.files.lock import holding

POLL = 0.2
"""Seconds between two looks at the processes."""
Hear = Callable[[Task], None]


class Failure(NamedTuple):
    """A task that did not end well, or could not begin."""

    task: str
    line: str
    """The last line of its log, or why it did not begin."""


class _Running(NamedTuple):
    task: Task
    process: subprocess.Popen[bytes]
    core: int
    begun: float


def cores_for(jobs: int) -> list[int]:
    """The cores that so many jobs are pinned to.

    Raises:
        ConfigError: there are fewer.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= jobs <= len(cores):
        raise ConfigError(f"--jobs {jobs}: each job has a core, and this process may use {len(cores)}")
    return cores[:jobs]


@contextmanager
def held(root: Path) -> Iterator[None]:
    """Keeps a second runner out of an experiment's folder.

    Raises:
        BusyError: there is one.
    """
    with holding(root / "lock", f"{root}: another process runs this experiment; wait for it"):
        yield


class Runner:
    """Runs tasks in their order as soon as what they need is done; a failed one keeps back those that need
    it."""

    def __init__(
        self, tasks: Sequence[Task], jobs: int, before: Hear, after: Hear, say: Callable[[str], None] = print
    ) -> None:
        self._tasks, self._cores = tasks, cores_for(jobs)
        self._before, self._after, self._say = before, after, say
        # What no task here makes was there before.
        made = {task.folder for task in tasks}
        self._done = {folder for task in tasks for folder in task.needs if folder not in made}
        self._done |= {task.folder for task in tasks if task.done()}
        self._failures: dict[Path, Failure] = {}
        self._running: list[_Running] = []

    def run(self) -> list[Failure]:
        """Returns what failed. Whatever ends this ends the processes too."""
        try:
            while self._start() or self._running:
                time.sleep(POLL)
                for one in [one for one in self._running if one.process.poll() is not None]:
                    self._running.remove(one)
                    self._finish(one)
        finally:
            for one in self._running:
                with suppress(ProcessLookupError):
                    os.killpg(one.process.pid, signal.SIGKILL)
        return list(self._failures.values())

    def _start(self) -> bool:
        """Fills the free cores; whether anything was started or given up."""
        free = [core for core in self._cores if core not in {one.core for one in self._running}]
        busy = {one.task.folder for one in self._running}
        moved = False
        for task in self._tasks:
            if task.folder in self._done | busy or task.folder in self._failures:
                continue
            if lost := [one for one in task.needs if one in self._failures]:
                self._fail(task, f"not begun: {lost[0].name} failed")
                moved = True
            elif free and self._done.issuperset(task.needs):
                moved |= self._launch(task, free)
        return moved

    def _launch(self, task: Task, free: list[int]) -> bool:
        try:
            self._before(task)
            task.prepare()
        except HermesError as error:
            self._fail(task, str(error))
            return True
        core = free.pop(0)
        command = [sys.executable, "-m", "benchmarks.experiment.supervised", str(core)]
        command += [sys.executable, "-m", "hermes_cli.main", *task.arguments]
        with (task.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "110"},
                start_new_session=True,
            )
        self._running.append(_Running(task, process, core, time.monotonic()))
        self._say(f"{task.name}: began on core {core}")
        return True

    def _finish(self, one: _Running) -> None:
        assert one.process.stdin is not None
        one.process.stdin.close()
        took = time.monotonic() - one.begun
        if one.process.returncode == 0 and one.task.done():
            self._done.add(one.task.folder)
            self._after(one.task)
            self._say(f"{one.task.name}: done in {told(took)}; {self.left()}")
        else:
            self._fail(one.task, last_line(one.task.folder / LOG))

    def _fail(self, task: Task, line: str) -> None:
        self._failures[task.folder] = Failure(task.name, line)
        self._say(f"{task.name}: FAILED: {line}")

    def left(self) -> str:
        """How much is done, and about how long the rest takes."""
        finished = [task for task in self._tasks if task.folder in self._done]
        waiting = [
            task
            for task in self._tasks
            if task.folder not in self._done and task.folder not in self._failures
        ]
        rate = rates(finished)
        seconds = sum(seconds_left(task, rate) for task in waiting) / len(self._cores)
        about = f", about {told(seconds)}" if waiting else ""
        return f"{len(finished)} of {len(self._tasks)} done, {len(waiting)} left{about}"


def last_line(path: Path) -> str:
    """The last line of a log that says anything."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it left no line")
