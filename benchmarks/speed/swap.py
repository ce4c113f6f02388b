"""New weights for a running engine against a new engine: seconds of each, and memory over many swaps.

Two random checkpoints of one shape take each other's place, with probes, from files that the system has
in memory. A restart closes the engine and starts one on the other checkpoint in the same process, which
spares it the imports of a new process. Both must end with the same greedy captions. Memory is what the
process holds after each swap, and what a sleep gives back.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.speed.load import resident_gib
from benchmarks.speed.shapes import SHAPES, make
from benchmarks.speed.timing import Machine, machine
from engine.checkpoints.swap_probe import PROBES, Probe, ProbeSet, fixed_captions
from engine.checkpoints.weights import load_config, load_model, save_checkpoint
from engine.files.atomic import write_file
from engine.files.layout import WEIGHTS
from engine.models.masks import mmu_mask
from engine.models.showo import Showo
from engine.records import CaptionSettings, ImageTokens, Record
from engine.serving.engine import Engine
from engine.tokenizers.text import TextTokenizer

GREEDY = CaptionSettings(temperature=0.0, max_tokens=8)
IDLE_SECONDS = 10.0
Captions = dict[int, set[tuple[int, ...]]]
"""Greedy captions by the checkpoint that gave them."""


class Swaps(Record):
    """Swaps to and fro."""

    seconds: tuple[float, ...]
    resident_mib: tuple[float, ...]
    """Memory of the process before the first swap and after each."""
    growth_mib: float
    """Last over the one after the tenth swap."""


class Sleep(Record):
    """One sleep and what came of it."""

    level: int
    awake_mib: float
    """Memory before it, with keys and values written throughout."""
    asleep_mib: float
    woken_mib: float
    sleep_seconds: float
    wake_seconds: float
    same_captions: bool
    """Whether greedy captions afterwards are those from before."""


class Report(Record):
    """A run of this script."""

    machine: Machine
    shape: str
    layers: int
    weights_mib: float
    swaps: Swaps
    restart_seconds: tuple[float, ...]
    ratio: float
    """Median seconds of a restart over those of a swap."""
    same_results: bool
    """Whether engines gave the same captions of the same weights, swapped in or started with."""
    sleeps: tuple[Sleep, ...]
    idle_cpu_seconds: float
    """Processor time of the process while its engine was awake and idle, over `IDLE_SECONDS`."""


def pair(folder: Path, shape: str, layers: int, probes: bool = True) -> tuple[Path, Path]:
    """Two checkpoints of one shape that caption differently."""
    first = make(folder, shape, layers=layers)
    second = folder / "other"
    if not (second / WEIGHTS).is_file():
        model = load_model(first)
        if probes:
            write_probes(model, first, first)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        save_checkpoint(model, second, folder / "companions")
        if probes:
            write_probes(model, first, second)
    return first, second


@torch.no_grad()
def write_probes(model: Showo, companions: Path, to: Path) -> None:
    """Writes the probes of a model, as a trainer does."""
    words = model.config.vocabulary
    prompt = TextTokenizer.load(companions / "tokenizer.json").encode(model.config.caption_prompt)
    probes = []
    for codes, ids in fixed_captions(model.config):
        start, tail = words.mmu_prompt(codes, prompt), [*ids, words.eos]
        row = torch.tensor([[*start, *tail]])
        logp = model.head(model(row, mmu_mask(row, words.eoi))).log_softmax(-1)[0, len(start) - 1 : -1]
        probes.append(Probe(codes, ids, float(logp.gather(1, torch.tensor(tail)[:, None]).sum())))
    write_file(to / PROBES, msgspec.json.encode(ProbeSet(dtype="float32", probes=tuple(probes))))


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


def resident_mib() -> float:
    """Memory of this process; on a GPU what is taken of the GPU's."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        free, whole = torch.cuda.mem_get_info()
        return (whole - free) / 2**20
    return 1024 * resident_gib()


def swapped(checkpoints: tuple[Path, Path], count: int, given: Captions) -> Swaps:
    """So many swaps to and fro."""
    tokens = load_config(checkpoints[0]).num_image_tokens
    spent: list[float] = []
    with Engine(checkpoints[0]) as engine:
        given[0].add(caption(engine, tokens))
        held = [resident_mib()]
        for number in range(1, count + 1):
            with timed(spent):
                engine.swap(checkpoints[number % 2])
            given[number % 2].add(caption(engine, tokens))
            held.append(resident_mib())
    return Swaps(
        seconds=tuple(spent),
        resident_mib=tuple(held),
        growth_mib=held[-1] - held[min(10, len(held) - 1)],
    )


def sleeps_of(engine: Engine, ask: Callable[[], tuple[int, ...]]) -> tuple[Sleep, ...]:
    """A sleep of each level."""
    found = []
    for level in (1, 2):
        worker = engine.server.llm.collective_rpc(_worker)[0]
        for cache in worker.model_runner.kv_caches:
            cache.fill_(0.5)
        spent: list[float] = []
        before, memory = ask(), [resident_mib()]
        with timed(spent):
            engine.sleep(level)
        memory.append(resident_mib())
        with timed(spent):
            engine.wake()
        memory.append(resident_mib())
        found.append(
            Sleep(
                level=level,
                awake_mib=memory[0],
                asleep_mib=memory[1],
                woken_mib=memory[2],
                sleep_seconds=spent[0],
                wake_seconds=spent[1],
                same_captions=ask() == before,
            )
        )
    return tuple(found)


def _worker(worker: Any) -> Any:
    return worker


def measure(shape: str, layers: int, swaps: int, restarts: int, folder: Path) -> Report:
    """Swaps, then restarts to and fro, then sleeps."""
    checkpoints = pair(folder, shape, layers)
    tokens = load_config(checkpoints[0]).num_image_tokens
    by_swap: Captions = {0: set(), 1: set()}
    found = swapped(checkpoints, swaps, by_swap)
    by_restart: Captions = {0: set(), 1: set()}
    restart_seconds: list[float] = []
    engine = Engine(checkpoints[0])
    try:
        by_restart[0].add(caption(engine, tokens))
        for number in range(1, restarts + 1):
            with timed(restart_seconds):
                engine.close()
                engine = Engine(checkpoints[number % 2])
            by_restart[number % 2].add(caption(engine, tokens))
        start = time.process_time()
        time.sleep(IDLE_SECONDS)
        idle = time.process_time() - start
        slept = sleeps_of(engine, lambda: caption(engine, tokens))
    finally:
        engine.close()
    return Report(
        machine=machine(),
        shape=shape,
        layers=layers or SHAPES[shape].layers,
        weights_mib=(checkpoints[0] / WEIGHTS).stat().st_size / 2**20,
        swaps=found,
        restart_seconds=tuple(restart_seconds),
        ratio=statistics.median(restart_seconds) / statistics.median(found.seconds),
        same_results=by_swap == by_restart and by_swap[0] != by_swap[1],
        sleeps=slept,
        idle_cpu_seconds=idle,
    )


def show(report: Report) -> None:
    """Prints a report as tables."""
    restart = statistics.median(report.restart_seconds)
    print(f"{report.shape}, {report.layers} layers, {report.weights_mib:.0f} MiB of weights")
    swap = statistics.median(report.swaps.seconds)
    print(f"swap {swap:.3f} s, restart {restart:.3f} s, {report.ratio:.1f} times as long")
    print(f"memory grew by {report.swaps.growth_mib:+.1f} MiB over the swaps")
    print(f"same captions: {'yes' if report.same_results else 'NO'}")
    for one in report.sleeps:
        print(
            f"sleep {one.level}: {one.awake_mib:.0f} MiB, asleep {one.asleep_mib:.0f}, woken "
            f"{one.woken_mib:.0f}; {one.sleep_seconds:.3f} s to sleep, {one.wake_seconds:.3f} to wake, "
            f"{'the same' if one.same_captions else 'OTHER'} captions"
        )
    print(f"idle for {IDLE_SECONDS:.0f} s: {report.idle_cpu_seconds:.2f} s of processor time")


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
    show(report)
    write_file(given.to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
