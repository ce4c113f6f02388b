"""What the 1.3B shape costs to load and serve, and how far vLLM is from the training model on it.

Makes a random checkpoint of Show-o's widths (`--layers` for fewer of its 24), loads it as the training
model and into vLLM, and scores the same captions with both. Prints a table and writes JSON; seconds and
memory belong to the machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import msgspec
import torch

from benchmarks.speed.shapes import filler, make
from engine.checkpoints.weights import load_model
from engine.files.atomic import write_file
from engine.models.masks import mmu_mask
from engine.models.showo import Showo
from engine.records import ImageTokens, Record
from engine.serving.engine import Engine
from engine.tokenizers.text import TextTokenizer

CAPTIONS = tuple(" ".join(map(filler, range(start, start + 8))) for start in (0, 8))


class Load(Record):
    """One shape in one precision."""

    dtype: str
    layers: int
    parameters: int
    training_load_seconds: float
    training_resident_gib: float
    serving_load_seconds: float
    serving_resident_gib: float
    """Memory that the process holds more than before the engine started, its KV cache included."""
    largest_logprob_difference: float
    largest_logprob: float
    """The scale of what is compared."""
    machine: str


def resident_gib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


@torch.no_grad()
def trained_logps(model: Showo, text: TextTokenizer, image: ImageTokens, caption: str) -> list[float]:
    """Log-probs of a caption's tokens and its end."""
    words = model.config.vocabulary
    start = words.mmu_prompt(image.codes, text.encode(model.config.caption_prompt))
    tail = [*text.encode(caption), words.eos]
    ids = torch.tensor([[*start, *tail]])
    hidden = model(ids, mmu_mask(ids, words.eoi))[0, len(start) - 1 : -1]
    logp = model.head(hidden).float().log_softmax(-1)
    return logp.gather(-1, torch.tensor(tail)[:, None])[:, 0].tolist()


def measure(layers: int, dtype: str, folder: Path) -> Load:
    """Loads and scores with both."""
    checkpoint = make(folder, "showo-1.3b", getattr(torch, dtype), layers, endless=False)
    codes = torch.randint(0, 8192, (len(CAPTIONS), 256), generator=torch.Generator().manual_seed(0))
    images = [ImageTokens(codes=tuple(row)) for row in codes.tolist()]
    text = TextTokenizer.load(checkpoint / "tokenizer.json")
    before, start = resident_gib(), time.perf_counter()
    model = load_model(checkpoint, getattr(torch, dtype))
    parameters = sum(p.numel() for p in model.parameters())
    loaded, held = time.perf_counter() - start, resident_gib() - before
    wanted = [trained_logps(model, text, *pair) for pair in zip(images, CAPTIONS, strict=True)]
    del model
    before, start = resident_gib(), time.perf_counter()
    with Engine(checkpoint, dtype=dtype, max_sequences=4) as engine:
        served, serving = time.perf_counter() - start, resident_gib() - before
        found = engine.score(images, CAPTIONS)
    pairs = [
        (a, b) for ours, theirs in zip(found, wanted, strict=True) for a, b in zip(ours, theirs, strict=True)
    ]
    return Load(
        dtype=dtype,
        layers=layers,
        parameters=parameters,
        training_load_seconds=loaded,
        training_resident_gib=held,
        serving_load_seconds=served,
        serving_resident_gib=serving,
        largest_logprob_difference=max(abs(a - b) for a, b in pairs),
        largest_logprob=max(abs(b) for _, b in pairs),
        machine=f"{platform.machine()}, {torch.get_num_threads()} threads",
    )


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--to", type=Path, default=Path("runs/bench/load.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = measure(given.layers, given.dtype, Path(folder))
    for name, value in msgspec.structs.asdict(row).items():
        print(f"{name:28} {value:.3g}" if isinstance(value, float) else f"{name:28} {value}")
    write_file(given.to, msgspec.json.format(msgspec.json.encode(row)))


if __name__ == "__main__":
    main()
