"""Size of a reference store, and seconds to write and to read it, by number of pairs; nothing is scored.

Random numbers stand in the place of log-probs: neither can be compressed. To read is to open it and to
read it whole, as training does before its first step; from the page cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.speed import bench
from benchmarks.speed.bench import Side, Timing
from engine.files.atomic import place_folder
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


class StoreSettings(Record):
    """How many pairs."""

    pairs: tuple[int, ...] = (5_000, 1_000_000)


def write(pairs: int, path: Path) -> None:
    """Writes a store of random numbers."""
    rng, draws = np.random.default_rng(0), BASIS.num_masks
    ids = [f"shapes-train-0-{number:08d}" for number in range(pairs)]
    folder = partial_of(path)
    store = PartialStore.create(folder, msgspec.to_builtins(BASIS), ids, draws, block_size(pairs))
    for number in store.missing():
        count, span = store.length(number), store.span(number)
        seeds = [[mask_seed(one, draw, 0) for draw in range(draws)] for one in ids[span]]
        arrays = {name: -rng.random(count, np.float32) for name in ("caption_win", "caption_lose")}
        arrays |= {name: -rng.random((count, draws), np.float32) for name in ("image_win", "image_lose")}
        store.write(number, arrays | {"mask_seed": np.array(seeds, np.int64)})
    place_folder(folder, path, replace=True)


def one_size(pairs: int, path: Path) -> list[Timing]:
    """Writes and reads a store."""
    read: list[Reference] = []
    sides = {
        "write": Side(lambda _: write(pairs, path), pairs),
        "read": Side(lambda _: read.append(open_reference(path, BASIS)), pairs),
    }
    timings = bench.contest(f"{pairs:,} pairs", sides, repeats=1, warmups=0)
    sizes = [one.stat().st_size for one in path.rglob("*") if one.is_file()]
    figures = {
        "write": {
            "pairs a chunk": block_size(pairs),
            "files": len(sizes),
            "MiB": sum(sizes) / 2**20,
            "bytes a pair": sum(sizes) / pairs,
        },
        "read": {"MiB in memory": sum(array.nbytes for array in read[0]) / 2**20},
    }
    return bench.with_figures(timings, figures)


def measure(given: StoreSettings) -> Iterator[Timing]:
    """Every size in a folder of its own."""
    for pairs in given.pairs:
        with tempfile.TemporaryDirectory() as scratch:
            yield from one_size(pairs, Path(scratch) / "reference.zarr")


if __name__ == "__main__":
    bench.run("reference-store", __doc__, StoreSettings(), measure)
