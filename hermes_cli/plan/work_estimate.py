"""What `hermes run` has still to do: samples, steps and time of every stage. Writes nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.records import Record
from hermes_cli.run.event_log import RunRequest
from hermes_cli.run.folder import RunFolder
from hermes_cli.run.status import State, paces, pairs_in, read_status, seconds_of
from hermes_cli.settings import RunSettings

if TYPE_CHECKING:
    from curate.sources import Source


class StagePlan(Record):
    """A stage, with what is left of it."""

    round: int
    stage: str
    state: State
    work: dict[str, int]
    """What is counted -> how many, of what is left: captions, images, answers, preferences, steps."""
    seconds: float | None
    """None where no finished stage tells."""


class RunPlan(Record):
    """All stages of the rounds that are asked for."""

    stages: tuple[StagePlan, ...]
    seconds: float | None
    """None where that of a stage is unknown."""


class DataCounts(Record):
    """What a data set asks of a stage."""

    items: int
    questions: int
    asked: int
    """Items that have questions."""

    @classmethod
    def of(cls, source: Source) -> DataCounts:
        """Counts the items of a source; opens no image."""
        questions = [len(row.item.questions) for row in source.rows() if row.item is not None]
        return cls(items=len(questions), questions=sum(questions), asked=sum(map(bool, questions)))


def plan_run(
    folder: RunFolder, settings: RunSettings, request: RunRequest, source: Source, held_out: Source
) -> RunPlan:
    """The plan of so many rounds on the items of `source`, measured on those of `held_out`."""
    rounds = [one for one in read_status(folder, settings, request).rounds if one.round <= request.rounds]
    pace, train, held = paces(rounds), DataCounts.of(source), DataCounts.of(held_out)
    judged = 0 if held_out.oracle else held.questions * settings.eval.images
    evaluation = {"images": held.asked * settings.eval.images, "answers": held.questions + judged}
    stages = []
    for one in rounds:
        preferences = pairs_in(folder, one.round) or train.items
        for stage in one.stages:
            work, units = {
                "curate": (_samples(settings, train), train.items),
                "reference": ({"preferences": preferences}, preferences),
                "train": _steps(settings, preferences),
                "eval": (evaluation, held.items),
            }[stage.stage]
            left = 1 - min(stage.done / units, 1) if units else 1.0
            if stage.state == "done":
                left = 0.0
            elif stage.stage == "eval":
                # One that was cut off begins anew.
                left = 1.0
            stages.append(
                StagePlan(
                    round=one.round,
                    stage=stage.stage,
                    state=stage.state,
                    work={name: round(count * left) for name, count in work.items()} if left else {},
                    seconds=seconds_of(stage, units * left, pace) if left else 0.0,
                )
            )
    times = [one.seconds for one in stages]
    whole = None if None in times else math.fsum(time for time in times if time is not None)
    return RunPlan(stages=tuple(stages), seconds=whole)


def _samples(settings: RunSettings, data: DataCounts) -> dict[str, int]:
    from curate.config import caption_plan

    config = settings.curate
    return {
        "captions": data.items * len(caption_plan(config)),
        "images": data.items * config.n,
        "answers": data.questions * config.n,
    }


def _steps(settings: RunSettings, preferences: int) -> tuple[dict[str, int], int]:
    steps = settings.train.for_preferences(preferences).steps
    return {"steps": steps}, steps
