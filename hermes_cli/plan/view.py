"""`hermes run --dry-run`: the plan on the screen."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from hermes_cli.plan.work_estimate import RunPlan, plan_run
from hermes_cli.run.event_log import RunRequest
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import RunSettings
from hermes_cli.stages.evaluate import held_out_source
from hermes_cli.stages.processes import plan_processes
from hermes_cli.view import console, format_clock, say
from train.config import TrainConfig


def show_run_plan(folder: RunFolder, settings: RunSettings, request: RunRequest) -> RunPlan:
    """Prints what a run has still to do; starts and writes nothing.

    Raises:
        HermesError: whatever would end the run before its first stage.
    """
    from hermes_cli.stages.curate import training_source

    folder.require_base()
    plan = plan_run(folder, settings, request, training_source(settings), held_out_source(settings))
    for line in _about(folder, settings, request):
        say(line)
    plan_processes(settings, folder.checkpoint(0), samples=True, trains=True, ranks=request.ranks)
    say("")
    console.print(_table(plan))
    known = (
        f"~{format_clock(plan.seconds)}"
        if plan.seconds is not None
        else "unknown until the first round has run"
    )
    say(f"in all: time {known}")
    say("Every item counts as a preference until a round is curated. Times are those of this run's latest")
    say("finished stages; a goal may end it earlier. Nothing was started.")
    return plan


def _about(folder: RunFolder, settings: RunSettings, request: RunRequest) -> list[str]:
    curate, train, evaluation = settings.curate, settings.train, settings.eval
    policy = settings.reference.policy
    named = policy if isinstance(policy, str) else ", ".join(policy)
    return [
        f"run {folder.root}: {request.words}",
        f"model {folder.checkpoint(0)}, data {settings.data}, seed {settings.seed}",
        f"curate: n {curate.n}, {curate.limit or 'all'} items at most, {curate.image.steps} image steps, "
        f"scored with {curate.similarity}, sampled by {curate.workers}",
        f"train: {train.steps} steps{_bound(train)} of {train.batch_size} at {train.learning_rate:.3g}, "
        f"objective {train.objective}, against {named}, "
        f"{request.ranks} rank{'' if request.ranks == 1 else 's'}",
        f"eval: {evaluation.limit} held-out items at most, {evaluation.images} images each",
    ]


def _bound(train: TrainConfig) -> str:
    return f" at most ({train.max_epochs:g} epochs)" if train.max_epochs else ""


def _table(plan: RunPlan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("round", "stage", "state", "left to do", "time"):
        table.add_column(name, justify="right" if name == "time" else "left", no_wrap=name != "left to do")
    before = -1
    for one in plan.stages:
        work = ", ".join(f"{count:,} {name}" for name, count in one.work.items())
        done = one.state == "done"
        table.add_row(
            "" if one.round == before else "base" if one.round == 0 else str(one.round),
            one.stage,
            Text({"stopped": "partly"}.get(one.state, one.state), "dim" if done else ""),
            work,
            "" if done else "unknown" if one.seconds is None else f"~{format_clock(one.seconds)}",
        )
        before = one.round
    return table
