"""The three sides of a comparison on one path: the engine, the official loop, the batched loop.

Each side is a function of the number of a round, which seeds images, questions and prompts: no round
profits from what an earlier one cached. `check` functions hold the sides against each other where nothing
is random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from benchmarks.speed import batched_loop, official_loop, workload
from benchmarks.speed.official_loop import Dice, EngineDice, FreeDice
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import AnswerSettings, CaptionSettings, ImageSettings, ImageTokens, Question, Record
from engine.samplers.vqa_prompts import ANSWER_TOKENS, format_question
from engine.serving.engine import Engine
from engine.tokenizers.text import TextTokenizer

PATHS = ("captions", "vqa", "images")
BASELINES = ("official", "batched")
MODES = {"text": AnswerSettings(mode="text", drafts=False), "likelihood": AnswerSettings(mode="likelihood")}
ANSWER = CaptionSettings(temperature=0.0, max_tokens=ANSWER_TOKENS)
CHECK_SEED = 10**6
CHECKED = 2
"""Samples that are compared."""


class Plan(Record):
    """How much work. Counts are samples of one round."""

    shape: str = "small"
    dtype: str = "float32"
    layers: int = 0
    """0 for all that the shape has."""
    paths: tuple[str, ...] = PATHS
    baselines: tuple[str, ...] = BASELINES
    images: int = 32
    """Images to caption and to ask about together, for the engine and the batched side."""
    n: int = 8
    """Captions of an image, images of a prompt."""
    questions: int = 8
    """Questions about an image."""
    prompts: int = 2
    """Prompts of the engine's images; the batched side has one, in one batch."""
    longest: int = 40
    """Tokens of the longest caption."""
    steps: int = 50
    guidance: float = 5.0
    official: int = 8
    """Captions and answers of the official side: the first ones of one image. An even number, like
    `n`: the lengths of captions come in pairs of one sum."""
    repeats: int = 3
    warmups: int = 1
    check_tokens: int = 16
    """Tokens of the greedy captions that are compared."""
    check_steps: int = 5
    """Steps of the images that are compared."""
    seed: int = 0
    kv_gib: float = 0.0
    """Memory of the engine's paged keys and values; 0 is planned by the engine."""


class Models(NamedTuple):
    """One checkpoint on both sides."""

    engine: Engine
    model: Showo
    text: TextTokenizer

    @property
    def config(self) -> ShowoConfig:
        """The sizes of both."""
        return self.engine.config

    def caption_prompt(self, image: ImageTokens) -> list[int]:
        """What is continued with a caption."""
        ids = self.text.encode(self.config.caption_prompt)
        return self.config.vocabulary.mmu_prompt(image.codes, ids)

    def question_prompt(self, image: ImageTokens, question: Question) -> list[int]:
        """What is continued with an answer, worded as the engine does."""
        ids = self.text.encode(format_question(self.config, question, MODES["text"]))
        return self.config.vocabulary.mmu_prompt(image.codes, ids)

    def answer_text(self, tokens: Sequence[int]) -> str:
        """A baseline's answer."""
        return self.text.decode(tokens)


class Side(NamedTuple):
    """Who works, on how many samples of how many new tokens each; `work` takes the number of a round."""

    work: Callable[[int], object]
    samples: int
    tokens: float


class Contest(NamedTuple):
    """A path: the engine in one or more modes, the baselines, and which of them gave the engine's results.

    The engine's first mode is the one that the baselines work in.
    """

    path: str
    inputs: int
    """Captions or images of one input, or questions about one image."""
    steps: int
    ours: dict[str, Side]
    baselines: dict[str, Side]
    same: dict[str, bool]


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of a baseline."""
    return torch.Generator(device).manual_seed(seed)


def captions(models: Models, plan: Plan) -> Contest:
    """n sampled captions of every image, of ragged lengths that are the same on all sides."""
    entries = workload.ragged_plan(plan.n, plan.longest, plan.seed)
    lengths = [entry.max_tokens for entry in entries]
    first = entries[: plan.official]

    def images(number: int) -> list[ImageTokens]:
        return workload.images(models.config, plan.images, plan.seed + number)

    def ours(number: int) -> object:
        keys = [f"{number}/{i}" for i in range(plan.images)]
        return models.engine.caption(images(number), keys, plan.seed, entries)

    def official(number: int) -> object:
        prompt = models.caption_prompt(images(number)[0])
        dice = generator(number, models.model.device)
        return [official_loop.continue_text(models.model, prompt, entry, dice) for entry in first]

    def batched(number: int) -> object:
        prompts = [models.caption_prompt(image) for image in images(number) for _ in lengths]
        every = lengths * plan.images
        dice = generator(number, models.model.device)
        return batched_loop.continue_texts(models.model, prompts, CaptionSettings(), every, dice)

    mean = sum(lengths) / plan.n
    sides = {
        "official": Side(official, len(first), sum(lengths[: plan.official]) / len(first)),
        "batched": Side(batched, plan.images * plan.n, mean),
    }
    return Contest(
        path="captions",
        inputs=plan.n,
        steps=plan.longest,
        ours={"sampled": Side(ours, plan.images * plan.n, mean)},
        baselines={name: sides[name] for name in plan.baselines},
        same=check_captions(models, plan),
    )


def check_captions(models: Models, plan: Plan) -> dict[str, bool]:
    """Whether the greedy captions of two images are the engine's, token for token."""
    images = workload.images(models.config, CHECKED, plan.seed + CHECK_SEED)
    prompts = [models.caption_prompt(image) for image in images]
    greedy = CaptionSettings(temperature=0.0, max_tokens=plan.check_tokens)
    keys = [str(i) for i in range(CHECKED)]
    wanted = [list(one[0].token_ids) for one in models.engine.caption(images, keys, 0, [greedy])]
    return _same(models.model, plan, prompts, greedy, lambda tokens: list(tokens), wanted)


def vqa(models: Models, plan: Plan) -> Contest:
    """Greedy answers to questions about every image; the engine in free text too, and by likelihood."""
    official_count = min(plan.official, plan.questions)

    def asked(number: int) -> tuple[list[ImageTokens], list[list[Question]]]:
        seed = plan.seed + number
        images = workload.images(models.config, plan.images, seed)
        return images, workload.questions(plan.images, plan.questions, seed)

    def ours(settings: AnswerSettings) -> Side:
        def work(number: int) -> object:
            return models.engine.answer(*asked(number), settings)

        tokens = float(ANSWER_TOKENS) if settings.mode == "text" else 0.0
        return Side(work, plan.images * plan.questions, tokens)

    def official(number: int) -> object:
        images, questions = asked(number)
        prompts = [models.question_prompt(images[0], one) for one in questions[0][:official_count]]
        dice = generator(number, models.model.device)
        return [official_loop.continue_text(models.model, prompt, ANSWER, dice) for prompt in prompts]

    def batched(number: int) -> object:
        prompts = [
            models.question_prompt(image, question)
            for image, of_image in zip(*asked(number), strict=True)
            for question in of_image
        ]
        lengths = [ANSWER_TOKENS] * len(prompts)
        dice = generator(number, models.model.device)
        return batched_loop.continue_texts(models.model, prompts, ANSWER, lengths, dice)

    sides = {
        "official": Side(official, official_count, ANSWER_TOKENS),
        "batched": Side(batched, plan.images * plan.questions, ANSWER_TOKENS),
    }
    return Contest(
        path="vqa",
        inputs=plan.questions,
        steps=ANSWER_TOKENS,
        ours={mode: ours(settings) for mode, settings in MODES.items()},
        baselines={name: sides[name] for name in plan.baselines},
        same=check_answers(models, plan),
    )


def check_answers(models: Models, plan: Plan) -> dict[str, bool]:
    """Whether the free texts to two questions are the engine's."""
    (image,) = workload.images(models.config, 1, plan.seed + CHECK_SEED)
    questions = workload.questions(1, CHECKED, plan.seed + CHECK_SEED)
    prompts = [models.question_prompt(image, question) for question in questions[0]]
    (answers,) = models.engine.answer([image], questions, MODES["text"])
    wanted = [answer.text for answer in answers]
    return _same(models.model, plan, prompts, ANSWER, models.answer_text, wanted)


def _same(
    model: Showo,
    plan: Plan,
    prompts: Sequence[Sequence[int]],
    settings: CaptionSettings,
    read: Callable[[Sequence[int]], object],
    wanted: object,
) -> dict[str, bool]:
    """Whether each baseline continues the prompts as wanted, its tokens read by `read`."""
    dice, found = generator(0, model.device), {}
    if "official" in plan.baselines:
        alone = [official_loop.continue_text(model, prompt, settings, dice) for prompt in prompts]
        found["official"] = [read(tokens) for tokens in alone] == wanted
    if "batched" in plan.baselines:
        lengths = [settings.max_tokens] * len(prompts)
        together = batched_loop.continue_texts(model, prompts, settings, lengths, dice)
        found["batched"] = [read(tokens) for tokens in together] == wanted
    return found


def images(models: Models, plan: Plan) -> Contest:
    """n images of every prompt, with guidance."""
    settings = ImageSettings(steps=plan.steps, guidance=plan.guidance)
    tokens = models.config.num_image_tokens
    counts = {"official": 1, "batched": plan.n}

    def prompts(number: int) -> list[str]:
        return workload.prompts(plan.prompts, plan.seed + number)

    def ours(number: int) -> object:
        keys = [f"{number}/{i}" for i in range(plan.prompts)]
        return models.engine.generate_images(prompts(number), plan.n, keys, plan.seed, settings)

    def baseline(count: int) -> Side:
        def work(number: int) -> object:
            text = models.text.encode(prompts(number)[0])
            dice = FreeDice(generator(number, models.model.device), count, tokens)
            return official_loop.generate(models.model, text, count, settings, dice)

        return Side(work, count, tokens)

    return Contest(
        path="images",
        inputs=plan.n,
        steps=plan.steps,
        ours={"guided": Side(ours, plan.prompts * plan.n, tokens)},
        baselines={name: baseline(counts[name]) for name in plan.baselines},
        same=check_images(models, plan),
    )


def check_images(models: Models, plan: Plan) -> dict[str, bool]:
    """Whether two images of one prompt are the engine's, code for code, when its random numbers are used."""
    settings = ImageSettings(steps=min(plan.steps, plan.check_steps), guidance=plan.guidance)
    (prompt,) = workload.prompts(1, plan.seed + CHECK_SEED)
    text, tokens = models.text.encode(prompt), models.config.num_image_tokens
    (ours,) = models.engine.generate_images([prompt], CHECKED, ["check"], plan.seed, settings)
    wanted, seeds = [list(image.codes) for image in ours], [image.seed for image in ours]

    def generated(of: Sequence[int]) -> list[list[int]]:
        dice: Dice = EngineDice(of, settings.steps, tokens, models.model.device)
        return official_loop.generate(models.model, text, len(of), settings, dice).codes

    found = {}
    if "official" in plan.baselines:
        found["official"] = [generated([seed])[0] for seed in seeds] == wanted
    if "batched" in plan.baselines:
        found["batched"] = generated(seeds) == wanted
    return found
