"""Sampling by the engine against two baselines, on random models: captions, answers, images.

`official` does the work of the released scripts (`official_loop`), `batched` that of batched generation
with a KV cache (`batched_loop`); both run the training module on the same weights. Images of the batched
side are all candidates of one prompt at once, which is also what the released curation script does.

Greedy captions and answers of all sides, and images generated with the same random numbers, are compared in
the same run. Every round has images, questions and prompts of its own, so no cache of an earlier one helps.

Images of a few steps (`--steps`) stand for those of 50: a step of the baselines costs the same in both, one
of the engine costs a little more in the shorter run, which finds more positions masked on average.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from benchmarks.speed import batched_loop, bench, official_loop, workload
from benchmarks.speed.bench import Side, Timing
from benchmarks.speed.model_sizes import make
from benchmarks.speed.official_loop import EngineDice, FreeDice
from engine.checkpoints.weights import load_model
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import AnswerSettings, CaptionSettings, ImageSettings, ImageTokens, Question, Record
from engine.samplers.vqa_prompts import format_question
from engine.serving.engine import Engine
from engine.tokenizers.text import TextTokenizer

Work = Literal["captions", "answers", "images"]
Baseline = Literal["official", "batched"]
TEXT, LIKELIHOOD = AnswerSettings(mode="text", drafts=False), AnswerSettings(mode="likelihood")
ANSWER = CaptionSettings(temperature=0.0, max_tokens=ShowoConfig().answer_tokens)
Prompts = list[list[int]]
GUIDANCE = 5.0
SEED, CHECK_SEED = 0, 10**6
CHECKED = 2
"""Samples that are compared."""


class SamplingSettings(Record):
    """How much work. Counts are samples of one round."""

    shape: str = "small"
    dtype: Literal["float32", "bfloat16"] = "float32"
    works: tuple[Work, ...] = ("captions", "answers", "images")
    baselines: tuple[Baseline, ...] = ("official", "batched")
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
    official: int = 8
    """Captions and answers of the official side: the first ones of one image. An even number, like
    `n`: the lengths of captions come in pairs of one sum."""
    repeats: int = 3
    warmups: int = 1
    check_tokens: int = 16
    """Tokens of the greedy captions that are compared."""
    check_steps: int = 5
    """Steps of the images that are compared."""
    kv_gib: float = 0.0
    """Memory of the engine's paged keys and values; 0 is planned by the engine."""


QUICK = SamplingSettings(images=4, prompts=1, steps=18)


class Models(NamedTuple):
    """One checkpoint as the engine serves it and as the training module."""

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
        ids = self.text.encode(format_question(self.config, question, TEXT))
        return self.config.vocabulary.mmu_prompt(image.codes, ids)

    def dice(self, seed: int) -> torch.Generator:
        """The random numbers of a baseline."""
        return torch.Generator(self.model.device).manual_seed(seed)


def one_by_one(
    models: Models, prompts: Prompts, plan: Sequence[CaptionSettings], seed: int
) -> list[list[int]]:
    """Each prompt continued by itself, as its entry of the plan says."""
    dice, pairs = models.dice(seed), zip(prompts, plan, strict=True)
    return [official_loop.continue_text(models.model, *pair, dice) for pair in pairs]


def together(models: Models, prompts: Prompts, plan: Sequence[CaptionSettings], seed: int) -> list[list[int]]:
    """All prompts continued in one batch; entries of the plan differ in their lengths alone."""
    lengths = [one.max_tokens for one in plan]
    return batched_loop.continue_texts(models.model, prompts, plan[0], lengths, models.dice(seed))


CONTINUE = {"official": one_by_one, "batched": together}


def captions(models: Models, given: SamplingSettings) -> list[Timing]:
    """n sampled captions of every image, of ragged lengths that are the same on all sides."""
    plan = workload.ragged_plan(given.n, given.longest, SEED)

    def images(number: int) -> list[ImageTokens]:
        return workload.images(models.config, given.images, number)

    def ours(number: int) -> object:
        keys = [f"{number}/{i}" for i in range(given.images)]
        return models.engine.caption(images(number), keys, SEED, plan)

    def prompts(number: int) -> Prompts:
        return [models.caption_prompt(image) for image in images(number) for _ in plan]

    sides = {"ours": Side(ours, given.images * given.n)} | _baselines(models, given, prompts, plan)
    return bench.contest("captions", sides, given.repeats, given.warmups, check_captions(models, given))


def answers(models: Models, given: SamplingSettings) -> list[Timing]:
    """Greedy answers to questions about every image; the engine in free text, and by likelihood."""

    def drawn(number: int) -> tuple[list[ImageTokens], list[list[Question]]]:
        images = workload.images(models.config, given.images, number)
        return images, workload.questions(given.images, given.questions, number)

    def ours(settings: AnswerSettings) -> Side:
        work: Callable[[int], object] = lambda number: models.engine.answer(*drawn(number), settings)  # noqa: E731
        return Side(work, given.images * given.questions)

    def prompts(number: int) -> Prompts:
        pairs = zip(*drawn(number), strict=True)
        return [models.question_prompt(image, one) for image, questions in pairs for one in questions]

    sides = {"ours": ours(TEXT), "ours, likelihood": ours(LIKELIHOOD)}
    sides |= _baselines(models, given, prompts, [ANSWER] * given.questions)
    return bench.contest("answers", sides, given.repeats, given.warmups, check_answers(models, given))


def _baselines(
    models: Models,
    given: SamplingSettings,
    prompts: Callable[[int], Prompts],
    plan: Sequence[CaptionSettings],
) -> dict[str, Side]:
    """Baselines on a round's prompts, of which an image has one for each entry of a plan."""
    counts = {"official": min(given.official, len(plan)), "batched": given.images * len(plan)}
    whole = [*plan] * given.images

    def side(name: Baseline) -> Side:
        count, work = counts[name], CONTINUE[name]
        return Side(lambda number: work(models, prompts(number)[:count], whole[:count], number), count)

    return {name: side(name) for name in given.baselines}


def check_captions(models: Models, given: SamplingSettings) -> dict[str, bool]:
    """Whether the greedy captions of two images are the engine's, token for token."""
    images = workload.images(models.config, CHECKED, CHECK_SEED)
    greedy = CaptionSettings(temperature=0.0, max_tokens=given.check_tokens)
    found = models.engine.caption(images, [str(i) for i in range(CHECKED)], 0, [greedy])
    prompts = [models.caption_prompt(image) for image in images]
    return _same(models, given, prompts, greedy, list, [list(one[0].token_ids) for one in found])


def check_answers(models: Models, given: SamplingSettings) -> dict[str, bool]:
    """Whether the free texts to two questions are the engine's."""
    (image,) = workload.images(models.config, 1, CHECK_SEED)
    questions = workload.questions(1, CHECKED, CHECK_SEED)
    (found,) = models.engine.answer([image], questions, TEXT)
    prompts = [models.question_prompt(image, question) for question in questions[0]]
    return _same(models, given, prompts, ANSWER, models.text.decode, [answer.text for answer in found])


def _same(
    models: Models,
    given: SamplingSettings,
    prompts: Prompts,
    settings: CaptionSettings,
    read: Callable[[Sequence[int]], object],
    wanted: object,
) -> dict[str, bool]:
    """Whether each baseline continues the prompts as wanted, its tokens read by `read`."""
    plan = [settings] * len(prompts)
    found = {name: CONTINUE[name](models, prompts, plan, 0) for name in given.baselines}
    return {name: [read(tokens) for tokens in texts] == wanted for name, texts in found.items()}


def images(models: Models, given: SamplingSettings) -> list[Timing]:
    """n images of every prompt, with guidance."""
    settings = ImageSettings(steps=given.steps, guidance=GUIDANCE)
    tokens, counts = models.config.num_image_tokens, {"official": 1, "batched": given.n}

    def prompts(number: int) -> list[str]:
        return workload.prompts(given.prompts, number)

    def ours(number: int) -> object:
        keys = [f"{number}/{i}" for i in range(given.prompts)]
        return models.engine.generate_images(prompts(number), given.n, keys, SEED, settings)

    def baseline(count: int) -> Side:
        def work(number: int) -> object:
            text = models.text.encode(prompts(number)[0])
            dice = FreeDice(models.dice(number), count, tokens)
            return official_loop.generate(models.model, text, count, settings, dice)

        return Side(work, count)

    sides = {"ours": Side(ours, given.prompts * given.n)}
    sides |= {name: baseline(counts[name]) for name in given.baselines}
    return bench.contest("images", sides, given.repeats, given.warmups, check_images(models, given))


def check_images(models: Models, given: SamplingSettings) -> dict[str, bool]:
    """Whether two images of one prompt are the engine's, code for code, when its random numbers are used."""
    settings = ImageSettings(steps=min(given.steps, given.check_steps), guidance=GUIDANCE)
    (prompt,) = workload.prompts(1, CHECK_SEED)
    text, tokens = models.text.encode(prompt), models.config.num_image_tokens
    (ours,) = models.engine.generate_images([prompt], CHECKED, ["check"], SEED, settings)
    wanted, seeds = [list(image.codes) for image in ours], [image.seed for image in ours]

    def generated(of: Sequence[int]) -> list[list[int]]:
        dice = EngineDice(of, settings.steps, tokens, models.model.device)
        return official_loop.generate(models.model, text, len(of), settings, dice).codes

    batches = {"official": [[seed] for seed in seeds], "batched": [seeds]}
    return {name: [*chain(*map(generated, batches[name]))] == wanted for name in given.baselines}


CONTESTS = {"captions": captions, "answers": answers, "images": images}


def measure(given: SamplingSettings) -> Iterator[Timing]:
    """Every work against every baseline, on a random checkpoint."""
    dtype = getattr(torch, given.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = make(Path(scratch), given.shape, dtype)
        with Engine(checkpoint, dtype=given.dtype, kv_cache_gib=given.kv_gib) as engine:
            text = TextTokenizer.load(checkpoint / "tokenizer.json")
            models = Models(engine, load_model(checkpoint, dtype), text)
            for work in given.works:
                yield from CONTESTS[work](models, given)


if __name__ == "__main__":
    bench.run("sampling", __doc__, SamplingSettings(), measure, QUICK)
