"""New weights for a running engine against a new engine: seconds of each, and memory over many swaps.

Two random checkpoints of one shape take each other's place, with probes, from their folders, whose files
the system has in memory. A restart closes the engine and starts one on the other checkpoint in the same
process, which spares it the imports of a new one. Each checkpoint must always give the same greedy caption.
Memory is what the process holds after each swap, and what a sleep gives back.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.speed import bench
from benchmarks.speed.bench import Timing, timed
from benchmarks.speed.model_sizes import make
from engine.checkpoints.swap_probe import PROBES, Probe, ProbeSet, fixed_captions
from engine.checkpoints.weights import load_model, save_checkpoint
from engine.files.atomic import write_file
from engine.files.layout import WEIGHTS
from engine.models.showo import Showo
from engine.records import CaptionSettings, ImageTokens, Record
from engine.serving.engine import Engine
from train.data.batch import Layout
from train.logps.row_logps import RowLogps

GREEDY = CaptionSettings(temperature=0.0, max_tokens=8)


class SwapSettings(Record):
    """What is run."""

    shape: str = "small"
    layers: int = 0
    repeats: int = 10
    """Swaps, and restarts, that are timed."""
    swaps: int = 50
    """Swaps over which memory is watched."""


def two_checkpoints(folder: Path, shape: str, layers: int) -> tuple[Path, Path]:
    """Two checkpoints of one shape that caption differently."""
    first, second = make(folder, shape, layers=layers), folder / "other"
    model = load_model(first)
    write_probes(model, first, first)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    save_checkpoint(model, second, folder / "companions")
    write_probes(model, first, second)
    return first, second


def write_probes(model: Showo, companions: Path, to: Path) -> None:
    """What a trainer leaves beside its weights: log-probs of fixed captions."""
    layout, captions = Layout.load(companions), fixed_captions(model.config)
    logps = RowLogps(model).score(layout.stack([layout.caption_row(*one) for one in captions])).tolist()
    probes = tuple(Probe(*one, logp) for one, logp in zip(captions, logps, strict=True))
    write_file(to / PROBES, msgspec.json.encode(ProbeSet(dtype="float32", probes=probes)))


def caption(engine: Engine) -> tuple[int, ...]:
    """A greedy caption of a fixed image."""
    image = ImageTokens(codes=tuple(range(engine.config.num_image_tokens)))
    return tuple(engine.caption([image], ["0"], 0, [GREEDY])[0][0].token_ids)


def resident_mib() -> float:
    """Memory of this process; on a GPU what is taken of the GPU's."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        free, whole = torch.cuda.mem_get_info()
        return (whole - free) / 2**20
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Served:
    """An engine on the first of two checkpoints; each change goes to the other one, whose caption is kept."""

    def __init__(self, engine: Engine, checkpoints: Sequence[Path]) -> None:
        self.engine, self._checkpoints, self._at = engine, checkpoints, 0
        self._captions: tuple[set[tuple[int, ...]], ...] = ({caption(engine)}, set())

    def change(self, to: Callable[[Path], object], seconds: list[float]) -> None:
        """Goes to the other checkpoint, adds what that took, and keeps what the weights caption."""
        self._at = 1 - self._at
        with timed(seconds):
            to(self._checkpoints[self._at])
        self._captions[self._at].add(caption(self.engine))

    def swap(self, checkpoint: Path) -> None:
        """New weights for the engine."""
        self.engine.swap(checkpoint)

    def restart(self, checkpoint: Path) -> None:
        """A new engine."""
        self.engine.close()
        self.engine = Engine(checkpoint)

    @property
    def same(self) -> bool:
        """Whether each checkpoint always gave the same caption, and not the other's."""
        first, second = self._captions
        return len(first) == len(second) == 1 and first != second


def sleep_figures(engine: Engine, level: int) -> dict[str, float]:
    """One sleep, with keys and values written throughout before it, and what came of it."""
    engine.server.llm.collective_rpc(_fill_caches)
    spent: list[float] = []
    before, memory = caption(engine), [resident_mib()]
    with timed(spent):
        engine.sleep(level)
    memory.append(resident_mib())
    with timed(spent):
        engine.wake()
    memory.append(resident_mib())
    figures = {f"{name} MiB": value for name, value in zip(("awake", "asleep", "woken"), memory, strict=True)}
    figures |= {f"{name} seconds": value for name, value in zip(("sleep", "wake"), spent, strict=True)}
    return figures | {"same captions": float(caption(engine) == before)}


def _fill_caches(worker: Any) -> None:
    for cache in worker.model_runner.kv_caches:
        cache.fill_(0.5)


def measure(given: SwapSettings) -> Iterator[Timing]:
    """Swaps and restarts in turns, then more swaps, then sleeps."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = two_checkpoints(Path(folder), given.shape, given.layers)
        served = Served(Engine(checkpoints[0]), checkpoints)
        try:
            seconds: dict[str, list[float]] = {"swap": [], "restart": []}
            for number in range(1 + given.repeats):
                for name, change in (("swap", served.swap), ("restart", served.restart)):
                    served.change(change, seconds[name] if number else [])
            held = [resident_mib()]
            for _ in range(given.swaps):
                served.change(served.swap, [])
                held.append(resident_mib())
            figures = {
                "weights MiB": (checkpoints[0] / WEIGHTS).stat().st_size / 2**20,
                "growth MiB": held[-1] - held[min(10, len(held) - 1)],
            }
            same = dict.fromkeys(seconds, served.same)
            swap, restart = bench.timings("new weights", dict.fromkeys(seconds, 1.0), seconds, same)
            yield from (msgspec.structs.replace(swap, figures=figures), restart)
            for level in (1, 2):
                yield Timing(work="sleep", side=f"level {level}", figures=sleep_figures(served.engine, level))
        finally:
            served.engine.close()


if __name__ == "__main__":
    bench.run("swap", __doc__, SwapSettings(), measure)
