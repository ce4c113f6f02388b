"""`hermes pretrain`: the embedded model from scratch: image tokenizer, then Show-o, then the card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from curate.config import require_at_least
from curate.shapes.captions import neighbours
from curate.shapes.examples import CAPTION_PROMPT, VQA_PROMPT, lesson, words
from curate.shapes.scene import CANVAS, render
from curate.shapes.world import draw
from engine.checkpoints.weights import load_config, save_checkpoint
from engine.errors import ConfigError, StaleError
from engine.files.layout import EMBEDDED_MODEL
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import Record
from engine.tokenizers.image import (
    ImageTokenizer,
    PatchLfqConfig,
    load_image_tokenizer,
    save_image_tokenizer,
    to_pixels,
)
from engine.tokenizers.text import TextTokenizer, word_tokenizer
from hermes_cli.commands.card import measure_card, write_card
from hermes_cli.settings import converted, merge, parse_assignment, read_toml
from hermes_cli.view import say
from train.pretraining.image_tokenizer import TokenizerStep, TokenizerTraining, train_image_tokenizer
from train.pretraining.pretrain import (
    PretrainExample,
    PretrainPhase,
    PretrainSettings,
    PretrainStep,
    pretrain,
)


class PretrainPlan(Record, forbid_unknown_fields=True):
    """Everything that decides the shipped weights."""

    layers: int = 5
    heads: int = 5
    width: int = 160
    tokenizer: TokenizerTraining = TokenizerTraining(steps=3000, batch=32)
    image: PatchLfqConfig = PatchLfqConfig()
    tokenizer_images: int = 6000
    lessons: int = 48_000
    model: PretrainSettings = PretrainSettings(
        phases=(
            PretrainPhase(steps=2200, images=32, texts=32, learning_rate=1.5e-3, warmup=150, span=3600),
            PretrainPhase(steps=200, images=64, texts=4, drill=24, learning_rate=1e-3, warmup=20, span=400),
        )
    )
    """Both skills; then image generation, learned slowly, and relations, learned last and left half-way."""
    start: str = ""
    """Checkpoint to go on from, with its tokenizers and its shape; empty is from scratch. `showo-shapes` is
    the embedded model."""

    def __post_init__(self) -> None:
        require_at_least("pretraining plan", self, layers=1, heads=1, width=1, tokenizer_images=1, lessons=1)
        require_at_least("pretraining plan: tokenizer", self.tokenizer, steps=1, batch=1, seed=0)
        for place, phase in enumerate(self.model.phases):
            where = f"pretraining plan: model.phases[{place}]"
            require_at_least(where, phase, steps=1, images=1, texts=0, drill=0, warmup=0, span=1)
            if phase.images > self.lessons:
                raise ConfigError(f"{where}.images is {phase.images}; there are {self.lessons} lessons")
        if self.width % self.heads:
            raise ConfigError(f"pretraining plan: width is {self.width}; heads, {self.heads}, must divide it")


def fit_tokenizer(
    plan: PretrainPlan, folder: Path, report: Callable[[TokenizerStep], None]
) -> ImageTokenizer:
    """The image tokenizer in `folder`, trained first where there is none."""
    if not (folder / "config.json").is_file():
        scenes = (draw("train", 1, number)[1] for number in range(plan.tokenizer_images))
        pool = torch.from_numpy(np.stack([render(scene) for scene in scenes]))
        rng = np.random.default_rng(plan.tokenizer.seed)

        def images(_: int, batch: int) -> Tensor:
            return pool[torch.from_numpy(rng.integers(0, len(pool), batch))]

        trained = train_image_tokenizer(plan.image, plan.tokenizer, images, report)
        save_image_tokenizer(trained, folder)
    return load_image_tokenizer(folder)


def examples(
    plan: PretrainPlan, text: TextTokenizer, image: ImageTokenizer
) -> tuple[list[PretrainExample], int]:
    """All lessons as ids, and the length of the longest caption."""

    def ids(words: str) -> tuple[int, ...]:
        return tuple(text.encode(words))

    def asked(questions: Iterable[tuple[str, str]]) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        return tuple((ids(VQA_PROMPT.format(question=one)), ids(answer)) for one, answer in questions)

    found = []
    for start in range(0, plan.lessons, 256):
        lessons = [lesson("train", 0, number) for number in range(start, min(start + 256, plan.lessons))]
        pixels = to_pixels(torch.from_numpy(np.stack([one.image for one in lessons])))
        for one, codes in zip(lessons, image.encode(pixels).tolist(), strict=True):
            caption = ids(one.caption)
            texts = ((ids(CAPTION_PROMPT), caption), *asked(one.questions))
            drill = asked(one.relations)
            found.append(PretrainExample(codes=tuple(codes), caption=caption, texts=texts, drill=drill))
    return found, max((len(one.caption) for one in found), default=0)


def neighbour_ids(text: TextTokenizer) -> dict[int, int]:
    """`neighbours` as ids."""
    return {text.encode(word)[0]: text.encode(other)[0] for word, other in neighbours().items()}


def misheard(
    caption: Sequence[int], share: float, nearby: Mapping[int, int], rng: np.random.Generator
) -> tuple[int, ...]:
    """A caption in which each id with a neighbour is, with probability `share`, that neighbour."""
    wrong = rng.random(len(caption)) < share
    return tuple(nearby.get(one, one) if miss else one for one, miss in zip(caption, wrong, strict=True))


def batches_of(
    found: Sequence[PretrainExample], settings: PretrainSettings, nearby: Mapping[int, int]
) -> Callable[[int], tuple[list[PretrainExample], list[PretrainExample]]]:
    """A pure function from step to batch: every epoch is a permutation seeded by its number.

    `nearby` gives the neighbours that `caption_noise` puts into images' prompts; texts stay as they are.
    """

    def batch(step: int) -> tuple[list[PretrainExample], list[PretrainExample]]:
        phase, inside = settings.place(step)
        epoch, place = divmod(inside, len(found) // phase.images)
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(found))
        shown = [found[i] for i in order[place * phase.images : (place + 1) * phase.images]]
        drilled = [one for one in shown if one.drill][: phase.drill]
        told = [*shown[: phase.texts], *(replace(one, texts=one.drill) for one in drilled)]
        if not phase.caption_noise:
            return shown, told
        rng = np.random.default_rng((settings.seed, step, 1))
        captions = [misheard(one.caption, phase.caption_noise, nearby, rng) for one in shown]
        return [replace(one, caption=wrong) for one, wrong in zip(shown, captions, strict=True)], told

    return batch


def train_from_scratch(plan: PretrainPlan, folder: Path, say: Callable[[str], None]) -> Path:
    """Trains into `folder`, resuming what is there; returns the checkpoint's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_bytes(msgspec.json.format(msgspec.json.encode(plan)))
    checkpoint = folder / "checkpoint"
    start = start_of(plan)
    if start is not None and not (checkpoint / "image_tokenizer").is_dir():
        shutil.copytree(start / "image_tokenizer", checkpoint / "image_tokenizer")
    image = fit_tokenizer(plan, checkpoint / "image_tokenizer", lambda s: say(_line(s)))
    text = word_tokenizer(words()) if start is None else TextTokenizer.load(start / "tokenizer.json")
    text.save(checkpoint / "tokenizer.json")
    found, longest = examples(plan, text, image)
    say(f"{len(found)} lessons, {text.size} words, longest caption {longest} words")
    config = load_config(start) if start is not None else _shape(plan, text)
    log = folder / "log.jsonl"

    def report(step: PretrainStep, model: Showo) -> None:
        with log.open("ab") as lines:
            lines.write(msgspec.json.encode(step) + b"\n")
        say(_line(step))
        save_checkpoint(model, checkpoint)

    batches = batches_of(found, plan.model, neighbour_ids(text))
    pretrain(config, plan.model, batches, folder / "state.safetensors", report, start)
    return checkpoint


def start_of(plan: PretrainPlan) -> Path | None:
    """The checkpoint that a plan goes on from.

    Raises:
        ConfigError: there is none.
    """
    if not plan.start:
        return None
    folder = EMBEDDED_MODEL if plan.start == EMBEDDED_MODEL.name else Path(plan.start)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"pretraining plan: start {plan.start}: no checkpoint lies there")
    return folder


def _shape(plan: PretrainPlan, text: TextTokenizer) -> ShowoConfig:
    """The model of a plan from scratch."""
    return ShowoConfig(
        hidden_size=plan.width,
        intermediate_size=4 * plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        max_position_embeddings=128,
        text_vocab_size=text.size,
        codebook_size=2**plan.image.bits,
        num_image_tokens=(CANVAS // plan.image.patch) ** 2,
        max_text_len=24,
        caption_prompt=CAPTION_PROMPT,
        vqa_prompt=VQA_PROMPT,
        bos_token_id=text.size - 1,
    )


def _line(record: TokenizerStep | PretrainStep) -> str:
    return "  ".join(
        f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}"
        for key, value in msgspec.structs.asdict(record).items()
    )


def load_plan(config: Path | None, assignments: list[str]) -> PretrainPlan:
    """The default plan with a TOML file and assignments on top.

    Raises:
        ConfigError: a name is unknown or a value does not fit.
    """
    layers = [read_toml(config) if config else {}]
    layers += [parse_assignment(one, PretrainPlan) for one in assignments]
    tree = reduce(merge, layers, msgspec.to_builtins(PretrainPlan()))
    return converted(tree, PretrainPlan, "pretraining plan")


def run_pretraining(to: Path, config: Path | None, assignments: list[str], threads: int) -> None:
    """`hermes pretrain`: trains, measures and writes the card; a model that fails a gate is said to."""
    plan = load_plan(config, assignments)
    stored = to / "plan.json"
    if stored.is_file() and msgspec.json.decode(stored.read_bytes(), type=PretrainPlan) != plan:
        raise StaleError(f"{to}: holds a pretraining under another plan; train in another --to folder")
    torch.set_num_threads(threads)
    checkpoint = train_from_scratch(plan, to, say)
    for name, kept in (("plan.json", "plan.json"), ("log.jsonl", "training.jsonl")):
        shutil.copyfile(to / name, checkpoint / kept)
    card = measure_card(checkpoint)
    write_card(checkpoint, card)
    for problem in card.problems:
        say(f"not fit to ship: {problem}")
    say(f"checkpoint and card: {checkpoint}")
