"""How near the engine comes to what this machine can do: prefill, caption decoding, image sampling.

For each path: the FLOPs and the bytes that the work needs, without padding, the image head at hidden
positions alone; the seconds that the engine takes; and the seconds that the ceilings allow, which is the
longer of FLOPs over the matrix-product ceiling and bytes over the bandwidth ceiling. `share` is allowed
over taken. The ceilings are measured in the same run on the same threads (`ceilings`): the products of the
model's own shapes, and matrix-vector products over as many bytes as the model has.

Legend: T text tokens, N image tokens, S canvas rows, C tokens that a query sees.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

from benchmarks.speed import ceilings, workload
from benchmarks.speed.ceilings import Ceilings, weight_flops
from benchmarks.speed.shapes import SHAPES, make
from benchmarks.speed.timing import Machine, in_turns, machine
from engine.files.atomic import write_file
from engine.machine.kv_cache import token_bytes
from engine.models.showo_config import ShowoConfig
from engine.records import CaptionSettings, ImageSettings, Record
from engine.samplers.mask_predict_rule import left_masked
from engine.serving.engine import Engine
from engine.tokenizers.text import TextTokenizer

SEQUENCES = 64
"""Captions that decode together."""
PER_IMAGE = 8
DECODED = 32
"""Decoding steps that are timed."""


class Need(Record):
    """What a piece of work takes at least."""

    gflop: float
    gbyte: float
    """Weights once a pass, and the keys and values that are read."""


class Row(Record):
    """One path of one shape."""

    path: str
    shape: str
    dtype: str
    layers: int
    work: str
    need: Need
    seconds: float
    all_seconds: tuple[float, ...]
    gflops: float
    """GFLOP/s that the engine reaches."""
    gb: float
    """GB/s that it reaches."""
    of_products: float
    """`gflops` over the ceiling of the model's own products."""
    of_bandwidth: float
    """`gb` over the ceiling of matrix-vector products."""
    bound: str
    """Which ceiling is the nearer one: products or bandwidth."""
    share: float
    """Share of that ceiling."""


class Report(Record):
    """A run of this script."""

    machine: Machine
    shape: str
    layers: int
    parameters: int
    ceilings: Ceilings
    rows: tuple[Row, ...]


def attention_flops(config: ShowoConfig, queries: int, seen: float) -> float:
    """FLOPs of `queries` that each see `seen` tokens, in all layers: scores and weighted values."""
    return 4.0 * config.hidden_size * config.num_hidden_layers * queries * seen


def layer_parameters(config: ShowoConfig) -> int:
    """Numbers in the layers' matrices."""
    return weight_flops(config) // 2


def prefill_need(config: ShowoConfig, text: int, images: int, itemsize: int) -> Need:
    """Prompts of an image and `text` tokens, and one token's logits each.

    The prefix sees itself both ways, the text what is before it.
    """
    prefix = config.prefix_length
    length = prefix + text
    attention = attention_flops(config, prefix, prefix) + attention_flops(
        config, text, prefix + (text + 1) / 2
    )
    head = 2 * config.hidden_size * config.vocab_size
    flops = images * (length * weight_flops(config) + attention + head)
    weights = layer_parameters(config) + config.hidden_size * config.vocab_size
    return Need(gflop=1e-9 * flops, gbyte=1e-9 * weights * itemsize)


def decode_need(config: ShowoConfig, context: float, sequences: int, dtype: str) -> Need:
    """One step of `sequences`, which see `context` tokens each on average."""
    weights = layer_parameters(config) + config.hidden_size * config.vocab_size
    flops = sequences * (2 * weights + attention_flops(config, 1, context))
    stored = sequences * context * token_bytes(config, dtype, config.head_dim)
    return Need(gflop=1e-9 * flops, gbyte=1e-9 * (weights * getattr(torch, dtype).itemsize + stored))


def hidden_counts(config: ShowoConfig, settings: ImageSettings) -> list[int]:
    """Positions of one canvas that each step finds hidden."""
    tokens = config.num_image_tokens
    found = [tokens]
    for step in range(settings.steps - 1):
        left = left_masked(torch.tensor([found[-1]]), tokens, step, settings.steps, settings.schedule)
        found.append(int(left))
    return found


def image_need(
    config: ShowoConfig, texts: Sequence[int], n: int, settings: ImageSettings, batch: int, itemsize: int
) -> Need:
    """n canvases of every prompt, whose texts have so many tokens.

    A text's keys and values, and the first step behind it, whose canvas is the same for all candidates, are
    needed once. The weights are read once for every step of a batch.
    """
    rows, width = config.num_image_tokens + 2, config.hidden_size
    unguided = [len(config.vocabulary.t2i_text((), config.max_text_len))] if settings.guidance else []
    first, *later = hidden_counts(config, settings)
    flops = 0.0
    for text, canvases in (*((text, n) for text in texts), *((text, n * len(texts)) for text in unguided)):
        flops += text * weight_flops(config) + attention_flops(config, text, (text + 1) / 2)
        step = rows * weight_flops(config) + attention_flops(config, rows, text + rows)
        flops += (1 + canvases * len(later)) * step
        flops += 2 * width * config.codebook_size * (first + canvases * sum(later))
    passes = settings.steps * -(-len(texts) * n // batch)
    weights = layer_parameters(config) + width * config.codebook_size
    return Need(gflop=1e-9 * flops, gbyte=1e-9 * passes * weights * itemsize)


class Paths:
    """The three paths on one engine; a round has images and prompts of its own."""

    def __init__(self, engine: Engine, text: TextTokenizer, dtype: str, settings: ImageSettings) -> None:
        self._engine, self._config, self._text = engine, engine.config, text
        self._dtype, self._settings = dtype, settings
        self._prompt = len(text.encode(engine.config.caption_prompt)) + 1
        self._images = SEQUENCES // PER_IMAGE

    def captions(self, images: int, n: int, tokens: int, seed: int) -> Callable[[int], object]:
        """n captions of fresh images, of exactly so many tokens."""

        def work(number: int) -> object:
            fresh = workload.images(self._config, images, seed + number)
            keys = [str(i) for i in range(images)]
            return self._engine.caption(fresh, keys, number, [CaptionSettings(max_tokens=tokens)] * n)

        return work

    def prefill(self, repeats: int) -> tuple[str, Need, list[float]]:
        """The prompts of images that no cache knows, and one token of each."""
        count = 2 * self._images
        work = self.captions(count, 1, 1, 1000)
        itemsize = getattr(torch, self._dtype).itemsize
        need = prefill_need(self._config, self._prompt, count, itemsize)
        return f"{count} prompts", need, in_turns({"": work}, repeats)[""]

    def decode(self, repeats: int) -> tuple[str, Need, list[float]]:
        """Seconds of one step: captions of 33 tokens less those of one, by the steps between."""
        sides = {
            name: self.captions(self._images, PER_IMAGE, tokens, seed)
            for name, tokens, seed in (("one", 1, 2000), ("all", DECODED + 1, 3000))
        }
        seconds = in_turns(sides, repeats)
        steps = [(every - one) / DECODED for every, one in zip(seconds["all"], seconds["one"], strict=True)]
        context = self._config.prefix_length + self._prompt + (DECODED + 1) / 2
        need = decode_need(self._config, context, SEQUENCES, self._dtype)
        return f"a step of {SEQUENCES} sequences", need, steps

    def images(self, repeats: int, prompts: int, n: int, batch: int) -> tuple[str, Need, list[float]]:
        """n images of each prompt; the texts of the first round stand for those of all."""
        words, room = self._config.vocabulary, self._config.max_text_len
        drawn = workload.prompts(prompts, 0)
        texts = [len(words.t2i_text(self._text.encode(prompt), room)) for prompt in drawn]
        itemsize = getattr(torch, self._dtype).itemsize
        need = image_need(self._config, texts, n, self._settings, batch, itemsize)

        def work(number: int) -> object:
            keys = [f"{number}/{i}" for i in range(prompts)]
            return self._engine.generate_images(drawn, n, keys, 0, self._settings)

        what = f"{prompts * n} images of {self._settings.steps} steps"
        return what, need, in_turns({"": work}, repeats)[""]


def row(
    path: str, found: tuple[str, Need, list[float]], limits: Ceilings, shape: str, dtype: str, layers: int
) -> Row:
    """A path's share of the nearer ceiling."""
    work, need, every = found
    took = statistics.median(every)
    products, reading = need.gflop / limits.model_gflops, need.gbyte / limits.model_read_gb
    return Row(
        path=path,
        shape=shape,
        dtype=dtype,
        layers=layers,
        work=work,
        need=need,
        seconds=took,
        all_seconds=tuple(every),
        gflops=need.gflop / took,
        gb=need.gbyte / took,
        of_products=products / took,
        of_bandwidth=reading / took,
        bound="products" if products > reading else "bandwidth",
        share=max(products, reading) / took,
    )


def measure(given: argparse.Namespace, folder: Path) -> Report:
    """Ceilings first, then the paths."""
    dtype = getattr(torch, given.dtype)
    checkpoint = make(folder, given.shape, dtype, given.layers)
    settings = ImageSettings(steps=given.image_steps, guidance=5.0)
    with Engine(checkpoint, dtype=given.dtype, kv_cache_gib=given.kv_gib, image_batch=given.batch) as engine:
        config = engine.config
        rows = 2 * given.batch * (config.num_image_tokens + 2)
        weights = layer_parameters(config) + config.hidden_size * config.vocab_size
        limits = ceilings.measure(config, dtype, rows, weights * dtype.itemsize)
        print(ceiling_table(limits), flush=True)
        paths = Paths(engine, TextTokenizer.load(checkpoint / "tokenizer.json"), given.dtype, settings)
        found: list[Row] = []
        for path, work in {
            "prefill": lambda: paths.prefill(given.repeats),
            "decode": lambda: paths.decode(given.repeats),
            "images": lambda: paths.images(given.repeats, given.prompts, given.n, given.batch),
        }.items():
            found.append(row(path, work(), limits, given.shape, given.dtype, config.num_hidden_layers))
            print(line(found[-1]), flush=True)
    parameters = weights + config.hidden_size * config.vocab_size
    return Report(
        machine=machine(),
        shape=given.shape,
        layers=config.num_hidden_layers,
        parameters=parameters,
        ceilings=limits,
        rows=tuple(found),
    )


def ceiling_table(limits: Ceilings) -> str:
    """The ceilings in two lines."""
    squares = ", ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in limits.square_gflops.items())
    return (
        f"square products {squares}; the model's own {limits.model_gflops:.0f} at {limits.model_rows} rows\n"
        f"copy {limits.copy_gb:.1f} GB/s, matrix-vector {limits.read_gb:.1f}, at the model's size"
        f" {limits.model_read_gb:.1f}"
    )


def line(one: Row) -> str:
    """A path in one line."""
    return (
        f"{one.path:8} {one.shape:11} {one.layers:3} layers  {one.work:28} {one.seconds:9.4f} s"
        f"  {one.gflops:8.1f} GFLOP/s ({one.of_products:.0%})  {one.gb:7.2f} GB/s ({one.of_bandwidth:.0%})"
        f"  {one.share:.0%} of {one.bound}"
    )


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than the shape has")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16, help="canvases that share a forward pass")
    parser.add_argument("--image-steps", type=int, default=18)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kv-gib", type=float, default=0.0, help="0 for the engine's own plan")
    parser.add_argument("--checkpoints", type=Path, help="keeps the random checkpoint in this folder")
    parser.add_argument("--to", type=Path, default=Path("runs/bench/roofline.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.checkpoints or Path(scratch)) / f"{given.shape}-{given.dtype}-{given.layers}"
        report = measure(given, folder)
    write_file(given.to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
