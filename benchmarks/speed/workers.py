"""`hermes curate` in one process against Ray actors: seconds of sampling, and whether the pairs are the same.

One process gives every operation all cores, two actors half of them each. Seconds are those that the summary
states, from the first sample to the last; starting the engines is not among them, and stands beside in the
seconds of the whole command.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.speed.timing import Machine, machine
from curate.store.summary import CurateSummary
from engine.files.atomic import write_file
from engine.records import Record


class Report(Record):
    """A run of this script."""

    machine: Machine
    items: int
    n: int
    workers: int
    local_seconds: tuple[float, ...]
    ray_seconds: tuple[float, ...]
    ratio: float
    """Median seconds on Ray over those of one process."""
    local_wall: tuple[float, ...]
    """Seconds of the whole command."""
    ray_wall: tuple[float, ...]
    identical: bool


def curated(run: Path, items: int, n: int, workers: int) -> tuple[float, float, bytes]:
    """(seconds of sampling, of the command, pairs)."""
    given = ["--run", str(run), "--limit", str(items), "--n", str(n)]
    if workers:
        given += ["--workers", "ray", "--set", f"curate.ray.workers={workers}"]
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "hermes_cli.main", "curate", *given], check=True, stdout=subprocess.DEVNULL
    )
    wall = time.perf_counter() - begun
    folder = run / "round-1/curate"
    summary = msgspec.json.decode((folder / "curate.json").read_bytes(), type=CurateSummary)
    assert summary.throughput is not None
    return summary.throughput.seconds, wall, (folder / "pairs.jsonl").read_bytes()


def measure(items: int, n: int, workers: int, repeats: int) -> Report:
    """Both sides in turns."""
    sides: dict[int, list[tuple[float, float, bytes]]] = {0: [], workers: []}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(repeats):
            for side, found in sides.items():
                found.append(curated(Path(scratch) / f"{side}-{number}", items, n, side))
                print(f"{f'{side} workers' if side else 'local':10} {found[-1][0]:.1f} s", flush=True)
    local, ray = sides[0], sides[workers]
    return Report(
        machine=machine(),
        items=items,
        n=n,
        workers=workers,
        local_seconds=tuple(one[0] for one in local),
        ray_seconds=tuple(one[0] for one in ray),
        ratio=statistics.median(one[0] for one in ray) / statistics.median(one[0] for one in local),
        local_wall=tuple(one[1] for one in local),
        ray_wall=tuple(one[1] for one in ray),
        identical=len({one[2] for one in (*local, *ray)}) == 1,
    )


def main() -> None:
    """Prints what came of it and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--to", type=Path, default=Path("runs/bench/workers.json"))
    given = parser.parse_args()
    report = measure(given.items, given.n, given.workers, given.repeats)
    print(f"Ray over one process: {report.ratio:.2f}, identical pairs: {'yes' if report.identical else 'NO'}")
    write_file(given.to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
