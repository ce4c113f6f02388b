"""Size of a reference store, and seconds to write and to read it, by number of pairs; nothing is scored.

Random numbers stand in the place of log-probs: neither can be compressed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.speed.timing import Machine, machine
from engine.files.atomic import place_folder, write_file
from engine.records import Record
from train.data.image_mask import mask_seed
from train.reference.reference import Reference, ReferenceBasis, open_reference, partial_of
from train.reference.store import PartialStore, block_size

BASIS = ReferenceBasis(
    weights="0" * 16,
    pairs="0" * 16,
    mask_rule="cosine",
    num_masks=4,
    mask_seed=0,
    text_dropout=0.0,
    image_tokens=256,
    caption_prompt="",
    dtype="float32",
    device="cpu",
)


class Row(Record):
    """One size."""

    pairs: int
    block: int
    """Preferences in a chunk."""
    files: int
    mib: float
    bytes_a_pair: float
    write_s: float
    read_s: float
    """Opening it and reading it whole, as training does before its first step; from the page cache."""
    memory_mib: float


class Report(Record):
    """A run of this script."""

    machine: Machine
    num_masks: int
    rows: tuple[Row, ...]


def one_size(pairs: int, path: Path) -> Row:
    """Writes and reads a store."""
    rng, draws = np.random.default_rng(0), BASIS.num_masks
    ids = [f"shapes-train-0-{number:08d}" for number in range(pairs)]
    begun = time.perf_counter()
    folder, block = partial_of(path), block_size(pairs)
    store = PartialStore.create(folder, msgspec.to_builtins(BASIS), ids, draws, block)
    for number in store.missing():
        count, span = store.length(number), store.span(number)
        seeds = [[mask_seed(one, draw, 0) for draw in range(draws)] for one in ids[span]]
        arrays = {name: -rng.random(count, np.float32) for name in ("caption_win", "caption_lose")}
        arrays |= {name: -rng.random((count, draws), np.float32) for name in ("image_win", "image_lose")}
        store.write(number, arrays | {"mask_seed": np.array(seeds, np.int64)})
    place_folder(folder, path, replace=True)
    wrote = time.perf_counter()
    found: Reference = open_reference(path, BASIS)
    read = time.perf_counter()
    sizes = [one.stat().st_size for one in path.rglob("*") if one.is_file()]
    return Row(
        pairs=pairs,
        block=block,
        files=len(sizes),
        mib=sum(sizes) / 2**20,
        bytes_a_pair=sum(sizes) / pairs,
        write_s=wrote - begun,
        read_s=read - wrote,
        memory_mib=sum(array.nbytes for array in found) / 2**20,
    )


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[5_000, 1_000_000])
    parser.add_argument("--to", type=Path, default=Path("runs/bench/reference-store.json"))
    given = parser.parse_args()
    rows = []
    for pairs in given.pairs:
        with tempfile.TemporaryDirectory() as scratch:
            row = one_size(pairs, Path(scratch) / "reference.zarr")
        rows.append(row)
        print(
            f"{row.pairs:9,} pairs, blocks of {row.block:4}: {row.files:6,} files, {row.mib:7.1f} MiB "
            f"({row.bytes_a_pair:.0f} bytes a pair), written in {row.write_s:6.1f} s, "
            f"read in {row.read_s:5.2f} s, {row.memory_mib:.1f} MiB in memory",
            flush=True,
        )
    report = Report(machine=machine(), num_masks=BASIS.num_masks, rows=tuple(rows))
    write_file(given.to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
