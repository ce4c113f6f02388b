"""Images on the device: the CPU's codes, speed against the official loop and the ceiling, and bits.

Official loops are timed over a few of the steps, each of which costs them the same, and scaled to all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.ceilings import square_gflops
from benchmarks.gpu.place import Found, Measure, Place, ratios
from benchmarks.official_loop import EngineDice, FreeDice
from benchmarks.official_loop import paint as official_paint
from benchmarks.roofline import paint_need
from benchmarks.shapes import config_of, random_model
from benchmarks.sides import generator
from engine.checkpoints import SHOWO_SHAPES
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import PaintSettings
from engine.samplers.mask_predict import paint
from engine.weights import load_config, load_model

GUIDANCE = 5.0
TEXT = tuple(range(1, 13))
"""Ids that every shape's tokenizer has."""
SIDE = 8192
"""Of the square product that the ceiling is measured with."""
SAME = [
    f"{name}, share of codes unlike {whose}"
    for name in ("tiny", "embedded")
    for whose in ("the CPU's", "the official loop's")
]
SPEED = (
    "seconds of a prompt",
    "images a second",
    "share of the bfloat16 ceiling (target 0.6 at 1.3B)",
    "bfloat16 ceiling, TFLOP/s",
    "peak memory, GiB",
)
OFFICIAL = (
    "ours, images a second",
    "official in float32, images a second",
    "official in bfloat16, images a second",
    "ours over official in float32 (target 10 at 1.3B)",
    "ours over official in bfloat16 (target 2 at 1.3B)",
)
BITS = (
    "share of codes unlike in permuted slots",
    "share of codes unlike in batches of half",
    "share of codes unlike in batches that leave a rest",
    "share of codes unlike beside another prompt",
)
Painter = Callable[[int], list[list[list[int]]]]


def settings_of(steps: int) -> PaintSettings:
    """Guided painting of so many steps."""
    return PaintSettings(steps=steps, guidance=GUIDANCE)


def large(place: Place) -> ShowoConfig:
    """Show-o's released sizes."""
    return config_of(place.pick("showo-1.3b", "tiny"))


def embedded(_: Place) -> ShowoConfig:
    """The sizes of the model that comes along."""
    return load_config(SHOWO_SHAPES)


def painter(model: Showo, prompts: int, n: int, steps: int, batch: int) -> Painter:
    """Paints n images of each of some prompts, with seeds of their own in every round."""
    texts = [TEXT[prompt % 4 :] for prompt in range(prompts)]

    def work(number: int) -> list[list[list[int]]]:
        seeds = [[1000 * number + n * prompt + one for one in range(n)] for prompt in range(prompts)]
        return paint(model, texts, seeds, settings_of(steps), batch)

    return work


def unlike(one: object, other: object) -> list[float]:
    """Share of positions whose codes differ."""
    return [float((torch.tensor(one) != torch.tensor(other)).double().mean())]


def same_codes(place: Place) -> Found:
    """A tiny random model and the embedded one, in float32: on the CPU, here, and by the official loop."""
    prompts, n, steps = place.pick((8, 4, 18), (2, 2, 3))
    figures = []
    for model in (random_model(config_of("tiny")), load_model(SHOWO_SHAPES)):
        wanted = painter(model, prompts, n, steps, 8)(0)
        found = painter(model.to(place.device), prompts, n, steps, 8)(0)
        dice = EngineDice(range(n), steps, model.config.num_image_tokens, place.device)
        official = official_paint(model, TEXT, n, settings_of(steps), dice)
        figures += [unlike(found, wanted), unlike(found[0], official.codes)]
    return Found(f"{prompts} x {n} images, {steps} steps, float32", figures)


def speed(place: Place, config: ShowoConfig, prompts: int) -> Found:
    """Seconds of all images of some prompts in bfloat16, and their share of the ceiling in this run."""
    n, steps, dtype = place.pick(16, 2), place.pick(50, 2), torch.bfloat16
    batch = prompts * n
    work = painter(random_model(config, dtype, place.device), prompts, n, steps, batch)
    limit = square_gflops(dtype, place.device, (place.pick(SIDE, 64),))
    seconds = place.seconds({"": work})[""]
    texts = [len(config.vocabulary.t2i_text(TEXT[one % 4 :], config.max_text_len)) for one in range(prompts)]
    need = paint_need(config, texts, n, settings_of(steps), batch, dtype.itemsize).gflop
    figures = (
        [one / prompts for one in seconds],
        [batch / one for one in seconds],
        [need / one / limit for one in seconds],
        [limit / 1000],
        [place.peak_gib(lambda: work(0))],
    )
    return Found(f"{prompts} x {n} images, {steps} steps, guided, bfloat16", figures)


def official(place: Place, config: ShowoConfig) -> Found:
    """The official loop in float32 and bfloat16 against ours in bfloat16, on one prompt."""
    n, steps, few = place.pick((16, 50, 3), (2, 2, 1))
    ours, exact = (random_model(config, dtype, place.device) for dtype in (torch.bfloat16, torch.float32))

    def loop(model: Showo) -> Callable[[int], object]:
        def work(number: int) -> object:
            dice = FreeDice(generator(number, place.device), n, config.num_image_tokens)
            return official_paint(model, TEXT, n, settings_of(few), dice)

        return work

    sides = {"ours": painter(ours, 1, n, steps, n), "float32": loop(exact), "bfloat16": loop(ours)}
    seconds = place.seconds(sides, 3)
    whole = [[one * steps / few for one in seconds[name]] for name in ("float32", "bfloat16")]
    rates = [[n / one for one in side] for side in (seconds["ours"], *whole)]
    figures = [*rates, *(ratios(side, seconds["ours"]) for side in whole)]
    what = f"1 x {n} images, {steps} steps, guided; official: {few} steps timed, scaled to {steps}"
    return Found(what, figures)


def bits(place: Place) -> Found:
    """One prompt's images in bfloat16: in other slots, in other batches, and beside another prompt's."""
    n, steps = place.pick((16, 8), (4, 2))
    model = random_model(large(place), torch.bfloat16, place.device)

    def painted(seeds: Sequence[int], batch: int, *others: Sequence[int]) -> list[list[int]]:
        texts = [TEXT, *others]
        return paint(model, texts, [seeds] * len(texts), settings_of(steps), batch)[0]

    seeds = list(range(n))
    wanted = painted(seeds, n)
    figures = (
        unlike(painted(seeds[::-1], n)[::-1], wanted),
        unlike(painted(seeds, n // 2), wanted),
        unlike(painted(seeds, n // 2 + 1), wanted),
        unlike(painted(seeds, 2 * n, TEXT[:5]), wanted),
    )
    return Found(f"{n} images, {steps} steps, bfloat16; against one batch of {n}", figures)


MEASURES = {
    "the same codes": Measure(same_codes, SAME),
    "1.3B": Measure(lambda place: speed(place, large(place), 1), SPEED),
    "1.3B, official loop": Measure(lambda place: official(place, large(place)), OFFICIAL),
    "1.3B, bits": Measure(bits, BITS),
    "embedded": Measure(lambda place: speed(place, embedded(place), place.pick(8, 2)), SPEED),
    "embedded, official loop": Measure(lambda place: official(place, embedded(place)), OFFICIAL),
}
