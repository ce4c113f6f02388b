"""Kills `hermes run` again and again, in every stage, and compares what it leaves with an uninterrupted run.

Two rounds of the embedded model on a few items are started, and killed with SIGKILL, trainer included: when
the run's log says that a certain stage has begun, and a random part of the time has passed that this stage
takes. The next start goes on, to be killed in the next stage: curation, reference, training, swap and
evaluation of round 1, then of round 2, then from the start in a new folder. After `--kills` kills it is let
through.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.resilience import killing
from benchmarks.resilience.killing import kill, same_bytes, through
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


class RunKill(Record):
    """One kill."""

    round: int
    stage: str
    """Which had begun and not ended when it came."""
    aimed: str
    """At which stage of which round."""
    delay: float
    """Seconds between the beginning of the stage aimed at and the kill."""
    seconds: float
    """Since the start of the process."""


class Comparison(Record):
    """A run that was killed, after it came through, against the uninterrupted one."""

    same: dict[str, bool]
    """What was compared -> whether it is the same."""
    engines: int
    """Engines that were started for it."""


class RunKills(Record):
    """What kills did to runs."""

    machine: Machine
    settings: tuple[str, ...]
    seed: int
    whole_seconds: float
    """Of the uninterrupted run."""
    stages: dict[str, float]
    """Seconds of each stage of the uninterrupted run."""
    kills: tuple[RunKill, ...]
    runs: tuple[Comparison, ...]
    """Those that came through; kills are spread over them in their order."""
    left_out: dict[str, str]

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return all(all(one.same.values()) for one in self.runs)


def options(items: int, n: int, steps: int) -> tuple[str, ...]:
    """Settings of a small run."""
    given = {
        "curate.chunk": 2,
        "train.steps": steps,
        "train.warmup": 1,
        "train.save_every": 3,
        "eval.limit": items,
        "eval.chunk": 4,
    }
    sets = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    return ("run", "--rounds", str(ROUNDS), "--limit", str(items), "--n", str(n), *sets)


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
    begun = time.perf_counter()
    process = killing.start(run, *given)
    while process.poll() is None:
        if any(
            (one["round"], one["stage"], one["event"]) == (*target, "begun") for one in lines(run)[before:]
        ):
            time.sleep(delay)
            break
        time.sleep(0.005)
    if process.poll() is not None:
        if process.returncode:
            through(run, *given)
        return None
    kill(process)
    hit = at_work(lines(run))
    return RunKill(
        round=hit[0],
        stage=hit[1],
        aimed=f"{target[1]} of round {target[0]}",
        delay=round(delay, 3),
        seconds=round(time.perf_counter() - begun, 2),
    )


def at_work(log: list[dict[str, Any]]) -> tuple[int, str]:
    """(round, stage) that has begun last and not ended; the stage is `between` where none has."""
    last = [one for one in log if one["stage"] != "run"][-1]
    return last["round"], last["stage"] if last["event"] == "begun" else f"between, after {last['stage']}"


def compare(ours: Path, theirs: Path) -> Comparison:
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
    engines = sum((one["stage"], one["event"]) == ("engine", "begun") for one in lines(ours))
    return Comparison(same=same, engines=engines)


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


def measure(items: int, n: int, steps: int, kills: int, seed: int, first: int = 0) -> RunKills:
    """One run that is left alone, one that is not; the first kill aims at target number `first`."""
    given, rng = options(items, n, steps), random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole, killed = Path(scratch) / "whole", Path(scratch) / "killed"
        whole_seconds = through(whole, *given)
        takes = durations(whole)
        print(f"uninterrupted: {whole_seconds:.1f} s", flush=True)
        found: list[RunKill] = []
        runs: list[Comparison] = []
        place = first
        while len(found) < kills:
            if place == len(TARGETS):
                through(killed, *given)
                runs.append(compare(killed, whole))
                shutil.rmtree(killed)
                place = 0
            target = TARGETS[place]
            one = kill_in(killed, given, target, rng.uniform(0, 0.9) * takes[target])
            place += 1
            if one is None:
                # It came through before the kill: begin once more, so that every kill hits work.
                place = len(TARGETS)
                continue
            found.append(one)
            print(
                f"killed {len(found)} of {kills} after {one.seconds:5.1f} s: aimed at {one.aimed}, "
                f"hit {one.stage} of round {one.round}",
                flush=True,
            )
        through(killed, *given)
        runs.append(compare(killed, whole))
        return RunKills(
            machine=machine(),
            settings=given,
            seed=seed,
            whole_seconds=round(whole_seconds, 1),
            stages={f"{stage} {number}": round(took, 2) for (number, stage), took in takes.items()},
            kills=tuple(found),
            runs=tuple(runs),
            left_out=LEFT_OUT,
        )


def main() -> None:
    """Prints what came of it and writes the JSON."""
    given = killing.options("run-kills", __doc__, items=12, n=4, steps=12, kills=10, seed=0)
    report = measure(given.items, given.n, given.steps, given.kills, given.seed)
    for name, why in report.left_out.items():
        print(f"not compared: {name}: {why}")
    for number, run in enumerate(report.runs, 1):
        differ = [name for name, same in run.same.items() if not same]
        said = f"{len(differ)} differ: {', '.join(differ)}" if differ else "all the same"
        print(f"run {number}: {len(run.same)} things compared, {said}; {run.engines} engines started")
    print(f"{len(report.kills)} kills, identical: {'yes' if report.identical else 'NO'}")
    killing.write(report, given.to)


if __name__ == "__main__":
    main()
