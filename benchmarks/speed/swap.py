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
import time
from collections.abc import Iterator
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
from engine.models.masks import mmu_mask
from engine.models.showo import Showo
from engine.records import CaptionSettings, ImageTokens, Record
from engine.serving.engine import Engine
from engine.tokenizers.text import TextTokenizer

GREEDY = CaptionSettings(temperature=0.0, max_tokens=8)
IDLE_SECONDS = 10.0


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


@torch.no_grad()
def write_probes(model: Showo, companions: Path, to: Path) -> None:
    """What a trainer leaves beside its weights: log-probs of fixed captions."""
    words = model.config.vocabulary
    prompt = TextTokenizer.load(companions / "tokenizer.json").encode(model.config.caption_prompt)
    found = []
    for codes, ids in fixed_captions(model.config):
        start, tail = words.mmu_prompt(codes, prompt), [*ids, words.eos]
        row = torch.tensor([[*start, *tail]])
        logp = model.head(model(row, mmu_mask(row, words.eoi))).log_softmax(-1)[0, len(start) - 1 : -1]
        found.append(Probe(codes, ids, float(logp.gather(1, torch.tensor(tail)[:, None]).sum())))
    write_file(to / PROBES, msgspec.json.encode(ProbeSet(dtype="float32", probes=tuple(found))))


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
    """An engine on one of two checkpoints; each change goes to the other one, and its caption is kept."""

    def __init__(self, checkpoints: tuple[Path, Path]) -> None:
        self._checkpoints, self._at = checkpoints, 0
        self.engine = Engine(checkpoints[0])
        self._captions: tuple[set[tuple[int, ...]], ...] = (set(), set())

    def _other(self) -> Path:
        self._at = 1 - self._at
        return self._checkpoints[self._at]

    def swap(self) -> None:
        """New weights for the engine."""
        self.engine.swap(self._other())

    def restart(self) -> None:
        """A new engine."""
        self.engine.close()
        self.engine = Engine(self._other())

    def ask(self) -> None:
        """Keeps what the weights caption."""
        self._captions[self._at].add(caption(self.engine))

    @property
    def same(self) -> bool:
        """Whether each checkpoint always gave the same caption, and not the other's."""
        first, second = self._captions
        return len(first) == len(second) == 1 and first != second


def sleep_figures(engine: Engine, level: int) -> dict[str, float]:
    """One sleep, with keys and values written throughout before it, and what came of it."""
    worker: Any = engine.server.llm.collective_rpc(_worker)[0]
    for cache in worker.model_runner.kv_caches:
        cache.fill_(0.5)
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


def _worker(worker: Any) -> Any:
    return worker


def measure(given: SwapSettings) -> Iterator[Timing]:
    """Swaps and restarts in turns, then more swaps, then sleeps."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = two_checkpoints(Path(folder), given.shape, given.layers)
        served = Served(checkpoints)
        try:
            served.ask()
            seconds: dict[str, list[float]] = {"swap": [], "restart": []}
            for number in range(1 + given.repeats):
                for name, change in (("swap", served.swap), ("restart", served.restart)):
                    with timed(seconds[name] if number else []):
                        change()
                    served.ask()
            held = [resident_mib()]
            for _ in range(given.swaps):
                served.swap()
                served.ask()
                held.append(resident_mib())
            figures = {
                "weights MiB": (checkpoints[0] / WEIGHTS).stat().st_size / 2**20,
                "growth MiB": held[-1] - held[min(10, len(held) - 1)],
            }
            same = dict.fromkeys(seconds, served.same)
            timings = bench.timings("new weights", dict.fromkeys(seconds, 1.0), seconds, same)
            yield from bench.with_figures(timings, {"swap": figures})
            start = time.process_time()
            time.sleep(IDLE_SECONDS)
            idle = {"processor seconds": time.process_time() - start}
            yield Timing(work=f"idle for {IDLE_SECONDS:.0f} s", side="engine", figures=idle)
            for level in (1, 2):
                yield Timing(work="sleep", side=f"level {level}", figures=sleep_figures(served.engine, level))
        finally:
            served.engine.close()


if __name__ == "__main__":
    bench.run("swap", __doc__, SwapSettings(), measure)
