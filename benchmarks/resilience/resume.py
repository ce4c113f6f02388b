"""Kills a curation again and again, and compares what it leaves with an uninterrupted one.

`hermes curate` on the embedded model is started, killed with SIGKILL after a random time, and started again,
with another chunk size each time, until it was killed `--kills` times; then it is let through. Counts items
lost and repeated, and says whether pairs, quarantine and sealed candidates are the same bytes.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.resilience.killing import kill, options, same_bytes, start, through, write
from benchmarks.speed.bench import Machine, machine
from curate.store.shards import read_outcomes
from engine.records import Record

COMPARED = ("pairs.jsonl", "quarantine.jsonl", "manifest.json", "candidates/000000.jsonl")
CURATION = "round-1/curate"


class CurationKills(Record):
    """What kills did to a curation."""

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


def arguments(items: int, n: int, chunk: int) -> tuple[str, ...]:
    """A curation of a few items."""
    return ("curate", "--limit", str(items), "--n", str(n), "--set", f"curate.chunk={chunk}")


def measure(items: int, n: int, kills: int, seed: int) -> CurationKills:
    """One run that is left alone, one that is not."""
    rng = random.Random(seed)
    moments: list[float] = []
    progress: list[int] = []
    with tempfile.TemporaryDirectory() as scratch:
        whole, killed = (Path(scratch) / name for name in ("whole", "killed"))
        longest = through(whole, *arguments(items, n, 4))
        ours, theirs = killed / CURATION, whole / CURATION
        while len(moments) < kills:
            victim = start(killed, *arguments(items, n, rng.randint(1, 4)))
            moment = rng.uniform(1.0, longest)
            try:
                victim.wait(moment)
            except subprocess.TimeoutExpired:
                kill(victim)
                moments.append(round(moment, 2))
                progress.append(len(list(read_outcomes(ours))) if ours.is_dir() else 0)
                print(f"killed {len(moments)} of {kills} with {progress[-1]} items", flush=True)
            else:
                # It came through: begin once more, so that every kill hits work.
                shutil.rmtree(ours, ignore_errors=True)
        through(killed, *arguments(items, n, 4))
        counts = Counter(one.number for one in read_outcomes(ours))
        return CurationKills(
            machine=machine(),
            items=items,
            n=n,
            kills=kills,
            moments=tuple(moments),
            progress=tuple(progress),
            seed=seed,
            lost=items - len(counts),
            repeated=sum(count - 1 for count in counts.values()),
            identical=all(same_bytes(ours, theirs, name) for name in COMPARED),
        )


if __name__ == "__main__":
    given = options("resume", __doc__, items=40, n=4, kills=20, seed=0)
    report = measure(given.items, given.n, given.kills, given.seed)
    print(
        f"{report.kills} kills, {report.items} items: {report.lost} lost, {report.repeated} repeated,"
        f" identical: {'yes' if report.identical else 'NO'}"
    )
    write(report, given.to)
