"""Peak memory of a curation of many rows: source, store, pairs and summary, with recorded samples.

The candidates of a few embedded items, sampled by a real curation, are given to every row of a JSON-lines
data set under its own id. Each size runs in a process of its own; what it peaks at beyond the smallest size
is what the number of rows costs.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import msgspec
from PIL import Image

from benchmarks.speed.timing import Machine, machine
from curate.config import CurateConfig
from curate.pipeline import curate
from curate.sources import load_source
from curate.store.origin import Origin
from curate.store.outcomes import Outcome, Sampled
from curate.store.previous_pairs import EarlierPairs
from curate.store.shards import read_outcomes
from curate.workers.pool import Chunk, LocalPool
from engine.files.atomic import write_file, write_parts
from engine.metering.counters import EngineWork
from engine.records import Candidates, Record

RECORDED = 8
"""Items whose candidates are recorded."""


class Row(Record):
    """One size."""

    rows: int
    peak_mib: float
    seconds: float
    pairs: int
    store_mib: float


class Report(Record):
    """A run of this script."""

    machine: Machine
    rows: tuple[Row, ...]


class Recorded:
    """A sampler that gives every row the candidates of a recorded item."""

    work = EngineWork()

    def __init__(self, items: list[Candidates]) -> None:
        self._items = items

    def sample(self, rows: Chunk) -> list[Outcome]:
        """The rows under their own ids."""
        return [
            Sampled(
                number=row.number,
                item=msgspec.structs.replace(
                    self._items[row.number % len(self._items)], id=row.item.id, caption=row.item.caption
                ),
            )
            for row in rows
        ]


def data_set(folder: Path, rows: int) -> Path:
    """A JSON-lines data set of so many rows with one picture; every hundredth row has no caption."""
    folder.mkdir(parents=True)
    Image.new("RGB", (48, 48), (200, 30, 30)).save(folder / "a.png")

    def lines() -> Iterator[bytes]:
        for number in range(rows):
            caption = "" if number % 100 == 7 else f"a red circle, number {number}"
            row = {"id": f"item-{number:08d}", "image": "a.png", "caption": caption, "questions": []}
            yield msgspec.json.encode(row) + b"\n"

    write_parts(folder / "items.jsonl", lines())
    return folder


def one_size(recorded: Path, data: Path, run: Path) -> Row:
    """Curates a data set in this process."""
    found = (one.item for one in read_outcomes(recorded) if isinstance(one, Sampled))
    items = list(itertools.islice(found, RECORDED))
    # No split: every row is curated, and twice, so that a second round looks up the first one's pairs.
    source = msgspec.structs.replace(load_source(str(data), "train", 0, 0, 48), split="")
    begun = time.perf_counter()
    for number in (1, 2):
        origin = Origin(
            model="recorded", precision="float32", data=source.name, round=number, seed=0, n=8, captions=[],
            image={}, answer={}, similarity="", annotations=source.digest,
        )  # fmt: skip
        earlier = EarlierPairs(run / str(one) / "pairs.jsonl" for one in range(1, number))
        pool = LocalPool(Recorded(items))
        summary = curate(
            lambda pool=pool: nullcontext(pool),
            source,
            CurateConfig(),
            run / str(number),
            origin,
            earlier,
            lambda done, note: None,
        )
    return Row(
        rows=summary.items + summary.bad,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        seconds=time.perf_counter() - begun,
        pairs=summary.caption_pairs,
        store_mib=sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / 2**20,
    )


def measure(sizes: list[int]) -> Report:
    """Every size in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        recorded = Path(scratch) / "recorded"
        given = ["curate", "--run", str(recorded), "--limit", str(RECORDED), "--n", "8"]
        command = [sys.executable, "-m", "hermes_cli.main", *given]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for size in sizes:
            data = data_set(Path(scratch) / f"data-{size}", size)
            asked = ["--one", str(recorded / "round-1/curate"), str(data), str(Path(scratch) / f"run-{size}")]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.speed.curation_memory", *asked],
                check=True,
                capture_output=True,
            )
            rows.append(msgspec.json.decode(done.stdout, type=Row))
            one = rows[-1]
            print(
                f"{one.rows:>8,} rows, two rounds: peak {one.peak_mib:.0f} MiB, {one.seconds:.1f} s,"
                f" {one.store_mib:,.0f} MiB on disk",
                flush=True,
            )
    return Report(machine=machine(), rows=tuple(rows))


def main() -> None:
    """Prints a line a size and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--one", type=Path, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, default=Path("runs/bench/curation-memory.json"))
    given = parser.parse_args()
    if given.one:
        sys.stdout.buffer.write(msgspec.json.encode(one_size(*given.one)))
        return
    report = measure(given.sizes)
    write_file(given.to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
