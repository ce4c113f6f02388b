"""Kills `hermes run` again and again, in every stage, and compares what it leaves with an uninterrupted run.

Two rounds of the embedded model on a few items are started, and killed with SIGKILL, trainer included: when
the run's log says that a certain stage has begun, and a random part of the time has passed that this stage
takes. The next start goes on, to be killed in the next stage: curation, reference, training, swap and
evaluation of round 1, then of round 2, then from the start in a new folder. After `--kills` kills it is let
through.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.speed import bench
from benchmarks.speed.bench import Machine, machine
from engine.checkpoints.weights import fingerprint
from engine.records import Record
from train.config import METRICS
from train.logging.metrics import read_metrics, timeless

ROUNDS = 2
STAGES = ("curate", "reference", "train", "swap", "eval")
TARGETS = tuple((number, stage) for number in range(1, ROUNDS + 1) for stage in STAGES)
LEFT_OUT = {
    "report.json": "each round's seconds, stages and throughput",
    "curate.json": "throughput",
    "metrics.jsonl": "seconds and memory of each step",
}
"""What is not compared: times, rates, and what the machine decides."""


class RunKillSettings(Record):
    """How large the run is, and how often it is killed."""

    items: int = 12
    n: int = 4
    steps: int = 12
    kills: int = 10
    seed: int = 0

    @property
    def command(self) -> tuple[str, ...]:
        """The run, as `hermes` takes it."""
        given = {
            "curate.chunk": 2,
            "train.steps": self.steps,
            "train.warmup": 1,
            "train.save_every": 3,
            "eval.limit": self.items,
            "eval.chunk": 4,
        }
        sets = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
        return ("run", "--rounds", str(ROUNDS), "--limit", str(self.items), "--n", str(self.n), *sets)


class RunKill(Record):
    """One kill."""

    round: int
    stage: str
    """Which had begun and not ended when it came."""
    aimed: str
    """At which stage of which round."""
    delay: float
    """Seconds between the beginning of the stage aimed at and the kill."""


class RunKills(Record):
    """What kills did to runs."""

    machine: Machine
    settings: RunKillSettings
    kills: tuple[RunKill, ...]
    runs: tuple[dict[str, bool], ...]
    """Of each that came through: what was compared with the uninterrupted one -> whether it is the same."""

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return all(all(same.values()) for same in self.runs)


def start(run: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A command of `hermes` on a run, in a process group of its own; its output lies beside the folder."""
    command = [sys.executable, "-m", "hermes_cli.main", *arguments, "--run", str(run)]
    with run.with_name(f"{run.name}.out").open("ab") as to:
        return subprocess.Popen(command, stdout=to, stderr=to, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and its whole group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def through(run: Path, *arguments: str) -> None:
    """Lets a command come through.

    Raises:
        RuntimeError: it failed; its output says why.
    """
    if code := start(run, *arguments).wait():
        raise RuntimeError(
            f"hermes ended with status {code}:\n{run.with_name(f'{run.name}.out').read_text()[-2000:]}"
        )


def same_bytes(ours: Path, theirs: Path, name: str) -> bool:
    """Whether a file, or every file below a folder, is there in both with the same bytes."""

    def content(path: Path) -> dict[str, bytes]:
        files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
        return {str(one.relative_to(path)): one.read_bytes() for one in files}

    found = content(ours / name)
    return bool(found) and found == content(theirs / name)


def lines(run: Path) -> list[dict[str, Any]]:
    """Beginnings and ends in the run's log; a line that is just being written is left out."""
    log = run / "events.jsonl"
    whole = log.read_bytes().rpartition(b"\n")[0] if log.is_file() else b""
    found = [msgspec.json.decode(line, type=dict) for line in whole.splitlines() if line.endswith(b"}")]
    return [one for one in found if one["event"] != "progress"]


def durations(run: Path) -> dict[tuple[int, str], float]:
    """Seconds of every stage of an uninterrupted run, from its log."""
    begun: dict[tuple[int, str], float] = {}
    found: dict[tuple[int, str], float] = {}
    for one in lines(run):
        key = one["round"], one["stage"]
        if one["event"] == "begun":
            begun[key] = one["time"]
        else:
            found[key] = one["time"] - begun[key]
    return found


def kill_in(run: Path, given: tuple[str, ...], target: tuple[int, str], delay: float) -> RunKill | None:
    """Starts, and kills so many seconds after the target stage has begun; None where it came through."""
    before = len(lines(run))
    process = start(run, *given)
    while process.poll() is None:
        if any(
            (one["round"], one["stage"], one["event"]) == (*target, "begun") for one in lines(run)[before:]
        ):
            time.sleep(delay)
            break
        time.sleep(0.005)
    if process.poll() is not None:
        return None
    kill(process)
    hit = at_work(lines(run))
    return RunKill(
        round=hit[0],
        stage=hit[1],
        aimed=f"{target[1]} of round {target[0]}",
        delay=round(delay, 3),
    )


def at_work(log: list[dict[str, Any]]) -> tuple[int, str]:
    """(round, stage) that has begun last and not ended; the stage is `between` where none has."""
    last = [one for one in log if one["stage"] != "run"][-1]
    return last["round"], last["stage"] if last["event"] == "begun" else f"between, after {last['stage']}"


def compare(ours: Path, theirs: Path) -> dict[str, bool]:
    """What two runs left, but for what `LEFT_OUT` names."""
    same = {
        "report.json": _report(ours) == _report(theirs),
        "best.json": same_bytes(ours, theirs, "best.json"),
    }
    for number in range(ROUNDS + 1):
        place = f"round-{number}"
        same |= {name: same_bytes(ours, theirs, name) for name in (f"{place}/eval.json", f"{place}/gallery")}
        if number == 0:
            continue
        for name in ("pairs.jsonl", "quarantine.jsonl", "manifest.json", "candidates", "sheet.png", "images"):
            same[f"{place}/curate/{name}"] = same_bytes(ours, theirs, f"{place}/curate/{name}")
        readers: dict[str, Callable[[Path], object]] = {
            "curate/curate.json": _summary,
            "checkpoint": fingerprint,
            f"checkpoint.training/{METRICS}": lambda path: [timeless(one) for one in read_metrics(path)],
        }
        for name, read in readers.items():
            same[f"{place}/{name}"] = read(ours / place / name) == read(theirs / place / name)
        for name in ("reference.zarr", "training.png", "checkpoint.training/basis.json"):
            same[f"{place}/{name}"] = same_bytes(ours, theirs, f"{place}/{name}")
        same[f"{place}, nothing else left"] = _names(ours / place) == _names(theirs / place)
    return same


def _names(folder: Path) -> set[str]:
    """Files and folders of a round, two levels deep; event files have the time in their names."""
    paths = [*folder.glob("*"), *folder.glob("*/*")]
    return {str(path.relative_to(folder)) for path in paths}


def _report(run: Path) -> dict[str, Any]:
    report: dict[str, Any] = msgspec.json.decode((run / "report.json").read_bytes())
    for one in report["rounds"]:
        for name in report["times"]:
            del one[name]
    return report


def _summary(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    del found["throughput"]
    return found


def measure(given: RunKillSettings, first: int = 0) -> RunKills:
    """One run that is left alone, one that is not; the first kill aims at target number `first`."""
    command, rng = given.command, random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole, killed = Path(scratch) / "whole", Path(scratch) / "killed"
        through(whole, *command)
        takes = durations(whole)
        found: list[RunKill] = []
        runs: list[dict[str, bool]] = []
        place = first
        while len(found) < given.kills:
            # Where a run came through before its kill, it begins once more, so that every kill hits work.
            target = TARGETS[place] if place < len(TARGETS) else None
            one = kill_in(killed, command, target, rng.uniform(0, 0.9) * takes[target]) if target else None
            if one is None:
                through(killed, *command)
                runs.append(compare(killed, whole))
                shutil.rmtree(killed)
                place = 0
                continue
            place += 1
            found.append(one)
            hit = f"{one.stage} of round {one.round}"
            print(f"killed {len(found)} of {given.kills}: aimed at {one.aimed}, hit {hit}", flush=True)
        through(killed, *command)
        runs.append(compare(killed, whole))
        return RunKills(machine=machine(), settings=given, kills=tuple(found), runs=tuple(runs))


if __name__ == "__main__":
    settings, to = bench.options("run-kills", __doc__, RunKillSettings())
    report = measure(settings)
    for name, why in LEFT_OUT.items():
        print(f"not compared: {name}: {why}")
    for number, run in enumerate(report.runs, 1):
        differ = [name for name, same in run.items() if not same]
        said = f"{len(differ)} differ: {', '.join(differ)}" if differ else "all the same"
        print(f"run {number}: {len(run)} things compared, {said}")
    print(f"{len(report.kills)} kills, identical: {'yes' if report.identical else 'NO'}")
    bench.write(report, to)
