"""What `hermes run` has still to do: samples, tokens, time and disk of every stage. Writes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.records import Item, Record
from hermes_cli.plan import disk_estimate as disk
from hermes_cli.run.folder import RunFolder
from hermes_cli.run.progress import pairs_in
from hermes_cli.run.request import Asked
from hermes_cli.run.status import StageStatus, State, paces, read_status, seconds_of
from hermes_cli.settings import RunSettings

if TYPE_CHECKING:
    from curate.sources import Source
    from engine.models.showo_config import ShowoConfig
    from engine.tokenizers.text import TextTokenizer

SAMPLE = 64
"""Items that stand for all where their texts matter."""


class StagePlan(Record):
    """A stage, with what is left of it."""

    round: int
    stage: str
    state: State
    work: dict[str, int]
    """What is counted -> how many, of what is left: captions, images, answers, preferences, steps, and
    tokens of captions (at most), of images times painting steps, and of rows that a model reads."""
    seconds: float | None
    """None where no finished stage tells."""
    bytes: int
    """What it will have written when it is done and is not yet there."""
    transient: int = 0
    """Bytes that it holds besides while it runs."""


class RunPlan(Record):
    """All stages of the rounds that are asked for."""

    stages: tuple[StagePlan, ...]
    seconds: float | None
    bytes: int
    peak: int
    """The most that is held at once beyond what is there now."""


class Data(Record):
    """What a data set asks of a stage."""

    items: int
    questions: int
    asked: int
    """Items that have questions."""
    sample: tuple[Item, ...]

    @classmethod
    def of(cls, source: Source) -> Data:
        """Counts the items of a source; opens no image."""
        items = questions = asked = 0
        sample: list[Item] = []
        for row in source.rows():
            if row.item is None:
                continue
            items += 1
            questions += len(row.item.questions)
            asked += bool(row.item.questions)
            if len(sample) < SAMPLE:
                sample.append(row.item)
        return cls(items=items, questions=questions, asked=asked, sample=tuple(sample))


class Planner:
    """Counts a run's work from its settings, its model's sizes and its data."""

    def __init__(self, folder: RunFolder, settings: RunSettings, source: Source, held_out: Source) -> None:
        from engine.checkpoints.weights import load_config
        from engine.tokenizers.text import TextTokenizer
        from hermes_cli.stages.evaluate import image_size
        from train.distributed.memory_estimate import model_sizes

        self._folder, self._settings = folder, settings
        base = folder.checkpoint(0)
        self._model: ShowoConfig = load_config(base)
        self._text: TextTokenizer = TextTokenizer.load(base / "tokenizer.json")
        self._sizes = model_sizes(base, settings.train)
        self._pixels = image_size(settings)
        self._data, self._held_out = Data.of(source), Data.of(held_out)
        self._judged_by_oracle = held_out.oracle

    def plan(self, asked: Asked) -> RunPlan:
        """The plan of so many rounds."""
        found = read_status(self._folder, self._settings, asked)
        rounds = [one for one in found.rounds if one.round <= asked.rounds]
        pace = paces(rounds)
        stages = tuple(self._stage(one.round, stage, pace) for one in rounds for stage in one.stages)
        times = [one.seconds for one in stages]
        kept = peak = 0
        for one in stages:
            kept += one.bytes
            peak = max(peak, kept + one.transient)
        return RunPlan(
            stages=stages,
            seconds=None if None in times else math.fsum(time for time in times if time is not None),
            bytes=kept,
            peak=peak,
        )

    def _stage(self, number: int, stage: StageStatus, pace: Mapping[str, StageStatus]) -> StagePlan:
        if stage.state == "done":
            return StagePlan(round=number, stage=stage.stage, state="done", work={}, seconds=0.0, bytes=0)
        work, size, transient, units = {
            "curate": self._curate,
            "reference": self._reference,
            "train": self._train,
            "eval": self._eval,
        }[stage.stage](number)
        # An evaluation that was cut off begins anew.
        left = 1.0 if stage.stage == "eval" or not units else max(0.0, 1 - stage.done / units)
        return StagePlan(
            round=number,
            stage=stage.stage,
            state=stage.state,
            work={name: round(count * left) for name, count in work.items()},
            seconds=seconds_of(stage, units * left, pace),
            bytes=round(size * left) if stage.stage == "curate" else size,
            transient=transient,
        )

    def _curate(self, number: int) -> tuple[dict[str, int], int, int, int]:
        from curate.config import caption_plan

        config, data = self._settings.curate, self._data
        plan = caption_plan(config)
        images = data.items * config.n
        work = {
            "captions": data.items * len(plan),
            "images": images,
            "answers": data.questions * config.n,
            "caption tokens": data.items * sum(one.max_tokens for one in plan),
            "image tokens x steps": images * self._model.num_image_tokens * config.paint.steps,
        }
        size = disk.curation_bytes(data.items, data.sample, self._text, self._model, config, self._pixels)
        return work, size, 0, data.items

    def _reference(self, number: int) -> tuple[dict[str, int], int, int, int]:
        config = self._settings.train
        pairs = self._pairs(number)
        captions, images = 2 * pairs, 2 * config.mask_draws * pairs
        work = {"preferences": pairs, "tokens read": self._tokens(captions, images)}
        return work, disk.reference_bytes(pairs, config), 0, pairs

    def _train(self, number: int) -> tuple[dict[str, int], int, int, int]:
        config = self._settings.train.for_preferences(self._pairs(number))
        visits = config.steps * config.batch
        captions, images = config.rows_on_average
        work = {
            "steps": config.steps,
            "tokens read": self._tokens(round(captions * visits), round(images * visits)),
        }
        weights = disk.checkpoint_bytes(self._folder.checkpoint(0), self._model_parameters)
        size = disk.training_bytes(weights, config)
        return work, size, disk.state_bytes(self._sizes.trained, config), config.steps

    @property
    def _model_parameters(self) -> int:
        """Adapters are merged into a checkpoint."""
        return self._sizes.model - (self._sizes.trained if self._settings.train.lora_rank else 0)

    def _eval(self, number: int) -> tuple[dict[str, int], int, int, int]:
        config, data = self._settings.eval, self._held_out
        images = data.asked * config.images
        judged = 0 if self._judged_by_oracle else data.questions * config.images
        work = {
            "images": images,
            "answers": data.questions + judged,
            "image tokens x steps": images * self._model.num_image_tokens * config.paint.steps,
        }
        return work, disk.evaluation_bytes(data.items, self._pixels), 0, data.items

    def _pairs(self, number: int) -> int:
        """Preferences of a round: one an item, where it is not curated yet."""
        return pairs_in(self._folder, number) or self._data.items

    def _tokens(self, captions: int, images: int) -> int:
        """Tokens of so many rows: captions at their longest, image rows with texts as long as the data's."""
        model, config = self._model, self._settings.curate
        prompt = len(self._text.encode(model.caption_prompt))
        seen = model.clip_tokens + len(model.system_ids) if model.w_clip_vit else model.num_image_tokens
        caption_row = seen + prompt + config.caption.max_tokens + 5
        texts = [min(len(self._text.encode(one.caption)), model.max_text_len) for one in self._data.sample]
        image_row = model.num_image_tokens + 5 + sum(texts) / max(1, len(texts))
        return round(captions * caption_row + images * image_row)
