"""Kills a training again and again, and compares what it leaves with an uninterrupted one.

Pair-DPO of the embedded model on synthetic preferences is started, killed with SIGKILL, and started again,
until it was killed `--kills` times; then it is let through. Every second kill comes after a random time, the
others just before a random operation on a file: while a state is made, renamed or removed, while metrics
are appended, while the checkpoint is published, and while states are cleared after that. Counts the steps
that were lost and those that were repeated though a state held them, and says whether weights and metrics
are the same.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speed import bench, workload
from benchmarks.speed.bench import Machine, machine
from engine.checkpoints.weights import fingerprint, load_config
from engine.files.layout import EMBEDDED_MODEL
from engine.records import Record
from train.command import precompute
from train.config import METRICS, TrainConfig
from train.logging.metrics import TrainStep, read_metrics, timeless
from train.loop import run_training
from train.reference.inputs import read_inputs

TOUCHES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree")
"""Audit events of Python before an operation on a file."""
PRELOAD = ["train.command", "deepspeed.runtime.zero.stage3", "torch._dynamo", "torch._inductor.compile_fx"]
"""What every training imports, some of it late: processes are forked from one that has done so."""


class Job(NamedTuple):
    """One training."""

    pairs: Path
    checkpoint: Path
    out: Path
    store: Path
    config: TrainConfig

    @property
    def training(self) -> Path:
        """Metrics and states."""
        return self.out.with_name(self.out.name + ".training")

    @property
    def log(self) -> Path:
        """Number of every step that was run, repeated ones too."""
        return self.out.with_name(self.out.name + ".steps")


class TrainKillSettings(Record):
    """The training, and how often it is killed."""

    steps: int = 20
    save_every: int = 4
    kills: int = 20
    operations: int = 120
    """On files, among which those to kill before are drawn."""
    seed: int = 0


class TrainKill(Record):
    """One kill."""

    seconds: float
    """Of the process, its start included."""
    operation: int
    """Number of operations on files before it; 0 where a moment was drawn instead."""
    done: int
    """Steps in the metrics when it came."""
    saved: int
    """Steps in the latest complete state; all of them where the checkpoint was published."""


class RunEnd(NamedTuple):
    """How a run that came through compares with the uninterrupted one."""

    lost: int
    """Steps that its metrics do not have."""
    identical: bool
    """Whether weights and metrics (times and memory apart) are the same."""


class Outcome(Record):
    """What kills did to a training."""

    kills: tuple[TrainKill, ...]
    runs: tuple[RunEnd, ...]
    """Those that came through, each after some of the kills."""
    repeated: int
    """Steps that were run again though a state held them."""

    @property
    def lost(self) -> int:
        """Steps that a finished run does not have."""
        return sum(end.lost for end in self.runs)

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return all(end.identical for end in self.runs)


class TrainKills(Record):
    """The training that was killed, and what came of it."""

    machine: Machine
    settings: TrainKillSettings
    outcome: Outcome


def work(job: Job, operation: int = 0) -> None:
    """Trains in this process, or up to the operation of this number on its files, where it is killed."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    folder = str(job.out)
    count = 0

    def watch(event: str, arguments: Sequence[Any]) -> None:
        nonlocal count
        if event in TOUCHES and arguments and str(arguments[0]).startswith(folder):
            reads = event == "open" and arguments[2] & os.O_ACCMODE == os.O_RDONLY
            count += not reads
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    if operation:
        sys.addaudithook(watch)
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def report(step: TrainStep) -> None:
        os.write(log, f"{step.step}\n".encode())

    run_training(read_inputs(job.pairs, job.checkpoint, job.config), job.out, job.store, report)


def attempt(job: Job, operation: int = 0, moment: float | None = None) -> tuple[bool, float]:
    """(whether it was killed, seconds) of one process that trains; killed after `moment` seconds."""
    context = multiprocessing.get_context("forkserver")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    context.set_forkserver_preload(PRELOAD)
    # The first process waits for the imports that the others then have.
    first = context.Process(target=int)
    first.start()
    first.join()
    begun = time.perf_counter()
    process = context.Process(target=work, args=(job, operation))
    process.start()
    process.join(moment)
    if process.is_alive():
        process.kill()
        process.join()
    seconds = round(time.perf_counter() - begun, 2)
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the training ended with status {process.exitcode}")
    return process.exitcode != 0, seconds


def progress(job: Job) -> tuple[int, int]:
    """(steps in the metrics, steps in the latest complete state)."""
    metrics = job.training / METRICS
    lines = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
    states = [int(path.name.removeprefix("state-")) for path in job.training.glob("state-*[0-9]")]
    return lines, job.config.steps if job.out.is_dir() else max(states, default=0)


def endure(job: Job, whole: Job, kills: int, longest: float, operations: int, seed: int) -> Outcome:
    """Kills `job` so many times, lets it through, and compares it with the finished `whole`.

    `longest` seconds and `operations` bound the moments that are drawn. A run that comes through before its
    kill is compared too, and begun once more, so that every kill hits work. The last is always one that was
    killed and went on.
    """
    rng = random.Random(seed)
    found: list[TrainKill] = []
    ends: list[RunEnd] = []
    repeated = 0
    while True:
        last = len(found) == kills
        operation = rng.randint(1, operations) if len(found) % 2 and not last else 0
        moment = None if operation or last else rng.uniform(0.2, 1.0) * longest
        before, logged = progress(job)[1], steps_run(job)
        killed, seconds = attempt(job, operation, moment)
        repeated += sum(step <= before for step in steps_run(job)[len(logged) :])
        if killed:
            done, saved = progress(job)
            found.append(TrainKill(seconds=seconds, operation=operation, done=done, saved=saved))
            print(f"killed {len(found)} after {seconds:.1f} s: {done} steps done, {saved} saved", flush=True)
            continue
        ends.append(compare(job, whole))
        if last:
            break
        discard(job)
    return Outcome(kills=tuple(found), runs=tuple(ends), repeated=repeated)


def compare(job: Job, whole: Job) -> RunEnd:
    """A finished run against the uninterrupted one."""
    metrics = [read_metrics(one.training / METRICS) for one in (job, whole)]
    ours, theirs = ([timeless(step) for step in steps] for steps in metrics)
    return RunEnd(
        lost=len({step.step for step in theirs} - {step.step for step in ours}),
        identical=ours == theirs and fingerprint(job.out) == fingerprint(whole.out),
    )


def steps_run(job: Job) -> list[int]:
    """Numbers of the steps in the log."""
    return [int(line) for line in job.log.read_text().split()] if job.log.is_file() else []


def discard(job: Job) -> None:
    """Removes all that a run has left."""
    for path in (job.out, job.training):
        shutil.rmtree(path, ignore_errors=True)
    job.log.unlink(missing_ok=True)


def measure(given: TrainKillSettings) -> Outcome:
    """One run that is left alone, one that is not."""
    config = TrainConfig(steps=given.steps, save_every=given.save_every, batch_size=2, keep=2, num_masks=2)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        made = workload.preferences(load_config(EMBEDDED_MODEL), 8, longest=12, seed=given.seed)
        pairs = workload.write_pairs(root / "pairs.jsonl", made)
        store = precompute(read_inputs(pairs, EMBEDDED_MODEL, config), root / "reference.zarr")
        whole, killed = (
            Job(pairs, EMBEDDED_MODEL, root / name, store, config) for name in ("whole", "killed")
        )
        _, longest = attempt(whole)
        return endure(killed, whole, given.kills, longest, given.operations, given.seed)


if __name__ == "__main__":
    settings, to = bench.options("train-kills", __doc__, TrainKillSettings())
    outcome = measure(settings)
    print(f"{len(outcome.kills)} kills, {len(outcome.runs)} runs of {settings.steps} steps")
    same = "yes" if outcome.identical else "NO"
    print(f"{outcome.lost} lost, {outcome.repeated} repeated beyond the last state, identical: {same}")
    bench.write(TrainKills(machine=machine(), settings=settings, outcome=outcome), to)
