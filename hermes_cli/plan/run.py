"""`hermes run --dry-run`: samples, steps and time of every stage that is still to do. Writes nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table
from rich.text import Text

from curate.config import CurateConfig, caption_plan
from curate.scoring.scorers import open_scorers
from engine.checkpoints.weights import load_config
from engine.records import Record
from hermes_cli.run.event_log import RunRequest
from hermes_cli.run.folder import RunFolder
from hermes_cli.run.status import State, paces, pairs_in, read_status, seconds_of
from hermes_cli.settings import RunSettings
from hermes_cli.stages.curate import require_same_curation
from hermes_cli.stages.processes import plan_processes
from hermes_cli.stages.self_play import require_runnable
from hermes_cli.view import console, format_clock, plain_table, say

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


class DataCounts(NamedTuple):
    """What a data set asks of a stage."""

    items: int
    questions: int
    asked: int
    """Items that have questions."""


def count_data(source: Source) -> DataCounts:
    """Counts the items of a source; opens no image."""
    questions = [len(row.item.questions) for row in source.rows() if row.item is not None]
    return DataCounts(len(questions), sum(questions), sum(map(bool, questions)))


def plan_run(
    folder: RunFolder, settings: RunSettings, request: RunRequest, source: Source, held_out: Source
) -> RunPlan:
    """The plan of so many rounds on the items of `source`, measured on those of `held_out`."""
    rounds = [one for one in read_status(folder, settings, request).rounds if one.round <= request.rounds]
    pace, train, held = paces(rounds), count_data(source), count_data(held_out)
    judged = 0 if held_out.oracle else held.questions * settings.eval.images
    evaluation = {"images": held.asked * settings.eval.images, "answers": held.questions + judged}
    stages = []
    for one in rounds:
        preferences = pairs_in(folder, one.round) or train.items
        steps = settings.train.for_preferences(preferences).steps
        for stage in one.stages:
            work, units = {
                "curate": (_samples(settings.curate, train), train.items),
                "reference": ({"preferences": preferences}, preferences),
                "train": ({"steps": steps}, steps),
                "eval": (evaluation, held.items),
            }[stage.stage]
            skipped = stage.stage == "eval" and not held.asked
            # An evaluation that was cut off begins anew.
            begun = min(stage.done / units, 1) if units and stage.stage != "eval" else 0.0
            left = 0.0 if stage.state == "done" or skipped else 1 - begun
            stages.append(
                StagePlan(
                    round=one.round,
                    stage=stage.stage,
                    state="skipped" if skipped else stage.state,
                    work={name: round(count * left) for name, count in work.items()} if left else {},
                    seconds=seconds_of(stage, units * left, pace) if left else 0.0,
                )
            )
    times = [one.seconds for one in stages]
    whole = None if None in times else math.fsum(time for time in times if time is not None)
    return RunPlan(stages=tuple(stages), seconds=whole)


def _samples(config: CurateConfig, data: DataCounts) -> dict[str, int]:
    return {
        "captions": data.items * len(caption_plan(config)),
        "images": data.asked * config.n,
        "answers": data.questions * config.n,
    }


def show_run_plan(folder: RunFolder, settings: RunSettings, request: RunRequest) -> RunPlan:
    """Prints what a run has still to do; starts and writes nothing.

    Raises:
        HermesError: whatever would end the run before its first stage.
    """
    source, held_out, _ = require_runnable(folder, settings, request)
    plan = plan_run(folder, settings, request, source, held_out)
    for line in _about(folder, settings, request, alone=not source.counts.with_questions):
        say(line)
    plan_processes(settings, folder.checkpoint(0), samples=True, trains=True, ranks=request.ranks)
    say("")
    console.print(_table(plan))
    unknown = "unknown until the first round has run"
    say(f"in all: time {unknown if plan.seconds is None else f'~{format_clock(plan.seconds)}'}")
    say("Every item counts as a preference until a round is curated. Times are those of this run's latest")
    say("finished stages; a goal may end it earlier. Nothing was started.")
    return plan


def show_curation_plan(
    folder: RunFolder, settings: RunSettings, number: int, source: Source, anew: bool
) -> None:
    """Prints what a round's curation samples in all; starts and writes nothing.

    Raises:
        HermesError: whatever would end the curation before its first sample.
    """
    source.require_image()
    if not anew:
        require_same_curation(folder, settings, number, source, open_scorers(settings.curate))
    work = _samples(settings.curate, count_data(source))
    say(f"curate round {number}: {', '.join(f'{count:,} {name}' for name, count in work.items())} in all")
    plan_processes(settings, folder.checkpoint(number - 1), samples=True)
    say("Nothing was started.")


def _about(folder: RunFolder, settings: RunSettings, request: RunRequest, alone: bool) -> list[str]:
    curate, train, evaluation = settings.curate, settings.train, settings.eval
    policy = settings.reference.policy
    named = policy if isinstance(policy, str) else ", ".join(policy)
    rate = train.for_width(load_config(folder.checkpoint(0)).hidden_size).learning_rate
    bound = f" at most ({train.max_epochs:g} epochs)" if train.max_epochs else ""
    return [
        f"run {folder.root}: {request.words}",
        f"model {folder.checkpoint(0)}, data {settings.data}, seed {settings.seed}",
        f"curate: n {curate.n}, {curate.limit or 'all'} items at most, {curate.image.steps} image steps, "
        f"scored with {curate.similarity}, sampled by {curate.workers}",
        f"train: {train.steps} steps{bound} of {train.batch_size} at {rate:.3g}, "
        f"objective {train.objective}{' on captions alone' if alone else ''}, against {named}, "
        f"{request.ranks} rank{'' if request.ranks == 1 else 's'}",
        f"eval: {evaluation.limit} held-out items at most, {evaluation.images} images each",
    ]


def _table(plan: RunPlan) -> Table:
    table = plain_table("round", "stage", "state", left=("stage", "state"))
    table.add_column("left to do", header_style="dim")
    table.add_column("time", justify="right", header_style="dim", no_wrap=True)
    before = -1
    for one in plan.stages:
        work = ", ".join(f"{count:,} {name}" for name, count in one.work.items())
        done = one.state in ("done", "skipped")
        table.add_row(
            "" if one.round == before else "base" if one.round == 0 else str(one.round),
            one.stage,
            Text({"stopped": "partly"}.get(one.state, one.state), "dim" if done else ""),
            work,
            "" if done else "unknown" if one.seconds is None else f"~{format_clock(one.seconds)}",
        )
        before = one.round
    return table
