"""`hermes run --dry-run`: the plan on the screen."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.table import Table
from rich.text import Text

from hermes_cli.plan.work_estimate import Planner, RunPlan
from hermes_cli.run.folder import RunFolder
from hermes_cli.run.request import Asked
from hermes_cli.settings import RunSettings
from hermes_cli.stages.evaluate import held_out_source
from hermes_cli.view import clock, console, say, size
from train.config import TrainConfig


def show_run_plan(folder: RunFolder, settings: RunSettings, asked: Asked) -> RunPlan:
    """Prints what a run has still to do; starts and writes nothing.

    Raises:
        HermesError: whatever would end the run before its first stage.
    """
    from hermes_cli.stages.curate import training_source

    folder.require_base()
    planner = Planner(folder, settings, training_source(settings), held_out_source(settings))
    plan = planner.plan(asked)
    for line in _about(folder, settings, asked):
        say(line)
    say("")
    console.print(_table(plan))
    for line in _totals(plan, folder.root):
        say(line)
    return plan


def _about(folder: RunFolder, settings: RunSettings, asked: Asked) -> list[str]:
    curate, train, evaluation = settings.curate, settings.train, settings.eval
    policy = settings.reference.policy
    named = policy if isinstance(policy, str) else ", ".join(policy)
    return [
        f"run {folder.root}: {asked.words}",
        f"model {folder.checkpoint(0)}, data {settings.data}, seed {settings.seed}",
        f"curate: n {curate.n}, {curate.limit or 'all'} items at most, {curate.paint.steps} painting steps, "
        f"scored with {curate.similarity}, sampled by {curate.workers}",
        f"train: {train.steps} steps{_bound(train)} of {train.batch} at {train.learning_rate:.3g}, "
        f"objective {train.objective}, against {named}, {asked.ranks} rank{'' if asked.ranks == 1 else 's'}",
        f"eval: {evaluation.limit} held-out items at most, {evaluation.images} images each",
    ]


def _bound(train: TrainConfig) -> str:
    return f" at most ({train.most_visits:g} visits a preference)" if train.most_visits else ""


def _table(plan: RunPlan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("round", "stage", "state", "left to do", "time", "disk"):
        table.add_column(
            name, justify="right" if name in ("time", "disk") else "left", no_wrap=name != "left to do"
        )
    before = -1
    for one in plan.stages:
        work = ", ".join(f"{count:,} {name}" for name, count in one.work.items())
        done = one.state == "done"
        table.add_row(
            "" if one.round == before else "base" if one.round == 0 else str(one.round),
            one.stage,
            Text({"stopped": "partly"}.get(one.state, one.state), "dim" if done else ""),
            work,
            "" if done else "unknown" if one.seconds is None else f"~{clock(one.seconds)}",
            "" if done else f"~{size(one.bytes)}",
        )
        before = one.round
    return table


def _totals(plan: RunPlan, root: Path) -> list[str]:
    there = next(one for one in (root, *root.resolve().parents) if one.is_dir())
    free = shutil.disk_usage(there).free
    known = f"~{clock(plan.seconds)}" if plan.seconds is not None else "unknown until the first round has run"
    lines = [
        f"in all: time {known}; disk ~{size(plan.bytes)}, ~{size(plan.peak)} at most while training; "
        f"{size(free)} free",
        "Captions count at their longest, preferences as one an item until a round is curated. Times go by",
        "the latest finished stages of this run; a goal that ends it earlier is not foreseen. The report is",
        "not counted. Nothing was started.",
    ]
    if free < plan.peak:
        lines.insert(1, "THE DISK IS TOO SMALL for that: make room, or use another --run")
    return lines
