"""Images on the device: the CPU's codes, speed against the official loop and the ceiling, and bits.

Ours is what the engine serves, without vLLM: `speed.fused` in static batches. Official loops are timed over a
few of the steps, each of which costs them the same, and scaled to all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.gpu.ceiling import image_gflop, square_gflops
from benchmarks.gpu.place import Found, Measure, Place, ratios
from benchmarks.speed.fused import FusedShowo
from benchmarks.speed.model_sizes import config_of, random_model
from benchmarks.speed.official_loop import EngineDice, FreeDice
from benchmarks.speed.official_loop import generate as official_generate
from engine.checkpoints.weights import load_config, load_model
from engine.files.layout import EMBEDDED_MODEL
from engine.models.phi import PrefixLM
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import ImageSettings
from engine.samplers.batch_size import planned_gpu_batch
from engine.samplers.mask_predict import SamplerCache, generate
from engine.samplers.replay import captured

TEXT = tuple(range(1, 13))
"""Ids that every shape's tokenizer has."""
SIDE = 8192
"""Of the square product that the ceiling is measured with."""
ImageWork = Callable[[int], list[list[list[int]]]]


def settings_of(steps: int) -> ImageSettings:
    """Guided generation of so many steps."""
    return ImageSettings(steps=steps, guidance=5.0)


def large(place: Place) -> ShowoConfig:
    """Show-o's released sizes."""
    return config_of(place.pick("showo-1.3b", "tiny"))


def prompts_of(place: Place, config: ShowoConfig, n: int) -> int:
    """Prompts whose n candidates fill a batch that the engine plans."""
    return place.pick(max(1, planned_gpu_batch(config, n) // n), 2)


def image_work(
    model: PrefixLM,
    prompts: int,
    n: int,
    steps: int,
    batch: int,
    kept: SamplerCache | None = None,
    static: bool = True,
) -> ImageWork:
    """Generates n images of each of some prompts, with seeds of their own in every round."""
    texts = [TEXT[prompt % 4 :] for prompt in range(prompts)]

    def work(number: int) -> list[list[list[int]]]:
        seeds = [[1000 * number + n * prompt + one for one in range(n)] for prompt in range(prompts)]
        return generate(model, texts, seeds, settings_of(steps), batch, kept, static)

    return work


def unlike(one: object, other: object) -> list[float]:
    """Share of positions whose codes differ."""
    return [float((torch.tensor(one) != torch.tensor(other)).double().mean())]


def same_codes(place: Place) -> Found:
    """A tiny random model and the embedded one, in float32: on the CPU, here, and by the official loop."""
    prompts, n, steps = place.pick((8, 4, 18), (2, 2, 3))
    figures = {}
    models = {"tiny": random_model(config_of("tiny")), "embedded": load_model(EMBEDDED_MODEL)}
    for name, model in models.items():
        wanted = image_work(model, prompts, n, steps, 8, static=False)(0)
        found = image_work(FusedShowo(model.to(place.device)), prompts, n, steps, 8)(0)
        dice = EngineDice(range(n), steps, model.config.num_image_tokens, place.device)
        official = official_generate(model, TEXT, n, settings_of(steps), dice)
        figures[f"{name}, share of codes unlike the CPU form's"] = unlike(found, wanted)
        figures[f"{name}, share of codes unlike the official loop's"] = unlike(found[0], official.codes)
    return Found(f"{prompts} x {n} images, {steps} steps, float32", figures)


def speed(place: Place, config: ShowoConfig) -> Found:
    """As many prompts as the engine takes together, in bfloat16, against the ceiling and official loops."""
    (n, steps, few), dtype = place.pick((16, 50, 3), (2, 2, 1)), torch.bfloat16
    prompts = prompts_of(place, config, n)
    model, batch = random_model(config, dtype, place.device), prompts * n
    kept = SamplerCache(captured if place.device.type == "cuda" else None)
    work = image_work(FusedShowo(model), prompts, n, steps, batch, kept)
    peak = place.peak_gib(lambda: work(0))

    def loop(model: Showo) -> Callable[[int], object]:
        def official(number: int) -> object:
            dice = FreeDice(torch.Generator(place.device).manual_seed(number), n, config.num_image_tokens)
            return official_generate(model, TEXT, n, settings_of(few), dice)

        return official

    exact = random_model(config, torch.float32, place.device)
    seconds = place.seconds({"ours": work, "float32": loop(exact), "bfloat16": loop(model)})
    limit = square_gflops(dtype, place.device, place.pick(SIDE, 64))
    texts = [len(config.vocabulary.t2i_text(TEXT[one % 4 :], config.max_text_len)) for one in range(prompts)]
    need = image_gflop(config, texts, n, settings_of(steps))
    rates = [batch / one for one in seconds["ours"]]
    figures = {
        "images a second": rates,
        "share of the bfloat16 ceiling (target 0.6 at 1.3B)": [need / one / limit for one in seconds["ours"]],
        "bfloat16 ceiling, TFLOP/s": [limit / 1000],
        "peak memory, GiB": [peak],
    }
    for side, target in (("float32", 10), ("bfloat16", 2)):
        rival = [n * few / steps / one for one in seconds[side]]
        figures[f"official in {side}, images a second"] = rival
        figures[f"ours over official in {side} (target {target} at 1.3B)"] = ratios(rates, rival)
    what = (
        f"{prompts} x {n} images, {steps} steps, bfloat16; official: 1 x {n}, {few} steps scaled to {steps}"
    )
    return Found(what, figures)


def bits(place: Place) -> Found:
    """One prompt's images in bfloat16: in other slots, in other batches, and beside other prompts' images."""
    n, steps = place.pick((16, 8), (4, 2))
    model = FusedShowo(random_model(large(place), torch.bfloat16, place.device))

    def generated(seeds: Sequence[int], batch: int, prompts: int = 1) -> list[list[int]]:
        texts = [TEXT[prompt:] for prompt in range(prompts)]
        return generate(model, texts, [seeds] * prompts, settings_of(steps), batch, static=True)[0]

    seeds, few = range(n), range(n // 4)
    wanted, name = generated(seeds, n), "share of codes unlike"
    figures = {
        f"{name} in permuted slots": unlike(generated(seeds[::-1], n)[::-1], wanted),
        f"{name} beside other prompts": unlike(generated(few, n, 4), generated(few, n)),
        f"{name} in batches of half": unlike(generated(seeds, n // 2), wanted),
        f"{name} in batches that leave a rest": unlike(generated(seeds, n // 2 + 1), wanted),
    }
    return Found(f"{n} images, {steps} steps, bfloat16; against one batch of {n}", figures)


MEASURES: dict[str, Measure] = {
    "the same codes": same_codes,
    "1.3B": lambda place: speed(place, large(place)),
    "1.3B, bits": bits,
    "embedded": lambda place: speed(place, load_config(EMBEDDED_MODEL)),
}
