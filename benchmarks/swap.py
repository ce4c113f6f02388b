"""New weights for a running engine against a new engine: seconds of both, and memory over many swaps.

Two random checkpoints of one shape take each other's place. A restart closes the engine and starts one on the
other checkpoint in the same process, which spares it the imports of a new process. Both sides must
end with the same greedy captions. Memory is what the process holds after each swap.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from benchmarks.load import resident_gib
from benchmarks.shapes import SHAPES, make
from benchmarks.timing import Machine, machine
from engine.checkpoints import WEIGHTS
from engine.durable import write_file
from engine.records import CaptionSettings, ImageTokens, Record
from engine.vllm_engine import Engine
from engine.weights import load_config, load_model, save_checkpoint

GREEDY = CaptionSettings(temperature=0.0, max_tokens=8)


class Report(Record):
    """A run of this script."""

    machine: Machine
    shape: str
    layers: int
    swap_seconds: tuple[float, ...]
    restart_seconds: tuple[float, ...]
    ratio: float
    """Median seconds of a restart over those of a swap."""
    same_results: bool
    """Whether swapped and restarted engines gave the same captions."""
    resident_mib: tuple[float, ...]
    """Memory of the process before the first swap and after each."""
    growth_mib: float
    """Last over the one after the tenth swap."""


def pair(folder: Path, shape: str, layers: int) -> tuple[Path, Path]:
    """Two checkpoints of one shape that caption differently."""
    first = make(folder, shape, layers=layers)
    second = folder / "other"
    if not (second / WEIGHTS).is_file():
        model = load_model(first)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        save_checkpoint(model, second, folder / "companions")
    return first, second


def caption(engine: Engine, tokens: int) -> tuple[int, ...]:
    """A greedy caption of a fixed image."""
    image = ImageTokens(codes=tuple(range(tokens)))
    return tuple(engine.caption([image], ["0"], 0, [GREEDY])[0][0].token_ids)


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Adds what the block took."""
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)


def measure(shape: str, layers: int, swaps: int, restarts: int, folder: Path) -> Report:
    """Swaps to and fro, then restarts to and fro."""
    checkpoints = pair(folder, shape, layers)
    tokens = load_config(checkpoints[0]).num_image_tokens
    by_swap: dict[int, set[tuple[int, ...]]] = {0: set(), 1: set()}
    by_restart: dict[int, set[tuple[int, ...]]] = {0: set(), 1: set()}
    swap_seconds: list[float] = []
    restart_seconds: list[float] = []
    engine = Engine(checkpoints[0])
    try:
        caption(engine, tokens)
        held = [1024 * resident_gib()]
        for number in range(1, swaps + 1):
            with timed(swap_seconds):
                engine.swap(checkpoints[number % 2])
            by_swap[number % 2].add(caption(engine, tokens))
            gc.collect()
            held.append(1024 * resident_gib())
        for number in range(1, restarts + 1):
            with timed(restart_seconds):
                engine.close()
                engine = Engine(checkpoints[number % 2])
            by_restart[number % 2].add(caption(engine, tokens))
    finally:
        engine.close()
    return Report(
        machine=machine(),
        shape=shape,
        layers=layers or SHAPES[shape].layers,
        swap_seconds=tuple(swap_seconds),
        restart_seconds=tuple(restart_seconds),
        ratio=statistics.median(restart_seconds) / statistics.median(swap_seconds),
        same_results=by_swap == by_restart and by_swap[0] != by_swap[1],
        resident_mib=tuple(held),
        growth_mib=held[-1] - held[min(10, len(held) - 1)],
    )


def main() -> None:
    """Prints what came of it and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--to", type=Path, default=Path("runs/bench/swap.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(given.shape, given.layers, given.swaps, given.restarts, Path(scratch))
    print(f"swap      {statistics.median(report.swap_seconds):8.3f} s  of {len(report.swap_seconds)}")
    print(f"restart   {statistics.median(report.restart_seconds):8.3f} s  of {len(report.restart_seconds)}")
    print(f"ratio     {report.ratio:8.1f}    same captions: {'yes' if report.same_results else 'NO'}")
    print(
        f"memory    {report.resident_mib[0]:8.0f} MiB at first, {report.resident_mib[-1]:.0f} at last, "
        f"{report.growth_mib:+.1f} since the tenth swap"
    )
    write_file(given.to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
