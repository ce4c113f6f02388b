"""Kills a curation again and again, and compares what it leaves with an uninterrupted one.

`hermes curate` on the embedded model is started, killed with SIGKILL after a random time, and started again,
with another chunk size each time, until it was killed `--kills` times; then it is let through. Counts items
lost and repeated, and says whether pairs, quarantine and sealed candidates are the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec

from benchmarks.speed.timing import Machine, machine
from curate.store.shards import read_outcomes
from engine.files.atomic import write_file
from engine.records import Record

COMPARED = ("pairs.jsonl", "quarantine.jsonl", "manifest.json", "candidates/000000.jsonl")


class Report(Record):
    """A run of this script."""

    machine: Machine
    items: int
    n: int
    kills: int
    moments: tuple[float, ...]
    """Seconds from each start to its kill."""
    progress: tuple[int, ...]
    """Items stored at each kill."""
    seed: int
    lost: int
    repeated: int
    identical: bool


def command(run: Path, items: int, n: int, chunk: int) -> list[str]:
    """A curation of a few items."""
    given = ["--run", str(run), "--limit", str(items), "--n", str(n), "--set", f"curate.chunk={chunk}"]
    return [sys.executable, "-m", "hermes_cli.main", "curate", *given]


def interrupted(
    run: Path, items: int, n: int, kills: int, longest: float, seed: int
) -> tuple[list[float], list[int]]:
    """Starts and kills; returns the moments, and how many items each found stored."""
    rng = random.Random(seed)
    moments: list[float] = []
    progress: list[int] = []
    folder = run / "round-1/curate"
    while len(moments) < kills:
        victim = subprocess.Popen(
            command(run, items, n, rng.randint(1, 4)), stdout=subprocess.DEVNULL, start_new_session=True
        )
        moment = rng.uniform(1.0, longest)
        try:
            victim.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(victim.pid, signal.SIGKILL)
            victim.wait()
            moments.append(round(moment, 2))
            progress.append(len(list(read_outcomes(folder))) if folder.is_dir() else 0)
            print(
                f"killed {len(moments)} of {kills} after {moment:.1f} s with {progress[-1]} items", flush=True
            )
        else:
            # It came through: begin once more, so that every kill hits work.
            for path in sorted(folder.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
    return moments, progress


def measure(items: int, n: int, kills: int, seed: int) -> Report:
    """One run that is left alone, one that is not."""
    with tempfile.TemporaryDirectory() as scratch:
        whole, killed = Path(scratch) / "whole", Path(scratch) / "killed"
        begun = time.perf_counter()
        subprocess.run(command(whole, items, n, 4), check=True, stdout=subprocess.DEVNULL)
        longest = time.perf_counter() - begun
        moments, progress = interrupted(killed, items, n, kills, longest, seed)
        subprocess.run(command(killed, items, n, 4), check=True, stdout=subprocess.DEVNULL)
        ours, theirs = killed / "round-1/curate", whole / "round-1/curate"
        counts = Counter(one.number for one in read_outcomes(ours))
        return Report(
            machine=machine(),
            items=items,
            n=n,
            kills=kills,
            moments=tuple(moments),
            progress=tuple(progress),
            seed=seed,
            lost=items - len(counts),
            repeated=sum(count - 1 for count in counts.values()),
            identical=all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in COMPARED),
        )


def main() -> None:
    """Prints what came of it and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path("runs/bench/resume.json"))
    given = parser.parse_args()
    report = measure(given.items, given.n, given.kills, given.seed)
    print(
        f"{report.kills} kills, {report.items} items: {report.lost} lost, {report.repeated} repeated,"
        f" identical: {'yes' if report.identical else 'NO'}"
    )
    write_file(given.to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
