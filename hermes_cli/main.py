"""The `hermes` command line. Commands import what they need when they run, so that help is instant."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from hermes_cli import options
from hermes_cli.commands.config import show_config
from hermes_cli.commands.exchange import export_release, import_release
from hermes_cli.commands.import_pairs import import_foreign_pairs
from hermes_cli.commands.inspect import inspect_curation
from hermes_cli.commands.pairs import show_pairs
from hermes_cli.commands.questions import make_questions
from hermes_cli.commands.report import make_report
from hermes_cli.commands.status import show_status

# Read when torch is first imported; without it every start prints how memory was bound to cores.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

# Meant for who writes code, and said by every rank.
warnings.filterwarnings("ignore", category=FutureWarning, module="torch")

CURATES = ("model", "data", "images", "seed", "engine", "curate")
TRAINS = ("train", "reference")
"""What of the settings a stage's own command goes by, and may change."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hermes {version('hermes-self-play')}")
        raise typer.Exit


@app.callback()
def hermes(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end."),
    ] = False,
) -> None:
    """Self-play for unified multimodal models: curate preferences, train on them, swap, repeat."""


@app.command()
def curate(
    context: typer.Context,
    run: options.Place = None,
    run_option: options.PlaceOption = None,
    round_number: options.Round = 1,
    n: options.N = None,
    limit: options.Limit = None,
    select: options.Select = None,
    max_bad: options.MaxBad = None,
    model: options.Model = None,
    data: options.Data = None,
    images: options.Images = None,
    questions: options.Questions = None,
    similarity: options.Similarity = None,
    rules: options.Rules = None,
    workers: options.Workers = None,
    recipe: options.Recipe = None,
    config: options.Config = None,
    assignments: options.Set = None,
    seed: options.Seed = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what was quarantined.")
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Curate this round anew; what followed from its pairs is set aside, else removed."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what is to be sampled; start nothing.")
    ] = False,
) -> None:
    """Sample n captions and n images for every item, score them, and choose winners and losers."""
    folder, settings = options.run_asked(context, own=CURATES)
    folder.require_weights_before(round_number, anew=fresh)
    from hermes_cli.stages.fitting import require_fitting

    require_fitting(settings, folder.checkpoint(round_number - 1))
    from hermes_cli.stages.curate import curate_round, training_source
    from hermes_cli.stages.unchanged import require_same_data

    folder.require_own(round_number)
    require_same_data(folder, settings, besides=round_number)
    source = training_source(settings, round_number)
    if dry_run:
        from hermes_cli.plan.run import show_curation_plan

        show_curation_plan(folder, settings, round_number, source, fresh)
        return
    curate_round(folder, settings, round_number, source, retry_failed=retry_failed, fresh=fresh)


@app.command()
def reference(
    context: typer.Context,
    run: options.Place = None,
    run_option: options.PlaceOption = None,
    round_number: options.Round = 1,
    ranks: options.ReferenceRanks = None,
    policy: options.Reference = None,
    config: options.Config = None,
    assignments: options.Set = None,
    seed: options.TrainSeed = None,
) -> None:
    """Score a round's pairs under the frozen reference model; `hermes train` does it where it is missing."""
    folder, settings = options.run_asked(context, exists=True, own=TRAINS)
    folder.require_pairs(round_number)
    from hermes_cli.stages.train import reference_round

    reference_round(folder, settings, round_number)


@app.command()
def train(
    context: typer.Context,
    run: options.Place = None,
    run_option: options.PlaceOption = None,
    round_number: options.Round = 1,
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="Processes on this machine.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print DeepSpeed settings, commands and memory; start nothing.")
    ] = False,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines that --dry-run plans for.")] = 1,
    policy: options.Reference = None,
    recipe: options.Recipe = None,
    config: options.Config = None,
    assignments: options.Set = None,
    seed: options.TrainSeed = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train this round anew, and set aside what was trained before.")
    ] = False,
) -> None:
    """Train on a round's pairs by Pair-DPO, from the weights that sampled them."""
    folder, settings = options.run_asked(context, exists=not dry_run, own=TRAINS)
    if dry_run:
        folder.require_weights_before(round_number)
        from hermes_cli.plan.train import show_plan

        show_plan(folder, settings, round_number, nodes, ranks)
        return
    folder.require_pairs(round_number)
    from hermes_cli.stages.train import train_round

    train_round(folder, settings, round_number, ranks, fresh)


@app.command("eval")
def evaluate(
    context: typer.Context,
    run: options.Place = None,
    run_option: options.PlaceOption = None,
    limit: options.EvalLimit = None,
    model: options.Model = None,
    data: options.Data = None,
    questions: options.Questions = None,
    images: options.Images = None,
    config: options.Config = None,
    assignments: options.Set = None,
) -> None:
    """Measure understanding, generation and their gap on held-out items, for every round trained."""
    folder, settings = options.run_asked(context, exists=True)
    folder.require_base()
    from hermes_cli.stages.engine_holder import LazyEngine
    from hermes_cli.stages.evaluate import bring_evaluation, eval_origin, finish, held_out_source
    from hermes_cli.stages.fitting import require_fitting
    from hermes_cli.stages.unchanged import keep_measuring

    require_fitting(settings, folder.checkpoint(0))
    source = held_out_source(settings)
    origin = eval_origin(folder, settings, source)
    keep_measuring(folder, settings)
    with closing(LazyEngine(folder, settings)) as engine:
        for number in folder.rounds():
            bring_evaluation(folder, settings, number, source, origin, engine.serving)
    finish(folder)


@app.command("run")
def run_command(
    context: typer.Context,
    rounds: Annotated[
        int, typer.Option("--rounds", min=0, help="Rounds of self-play, at most; 0 measures the base.")
    ] = 1,
    until: Annotated[
        str | None, typer.Option("--until", help="Stop after a round that reaches this: gap<0.04, gen>0.5.")
    ] = None,
    patience: Annotated[
        int,
        typer.Option("--patience", min=0, help="Rounds that may pass without a new best one; 0 is any."),
    ] = 0,
    run: options.Place = None,
    run_option: options.PlaceOption = None,
    n: options.N = None,
    limit: options.Limit = None,
    select: options.Select = None,
    max_bad: options.MaxBad = None,
    model: options.Model = None,
    data: options.Data = None,
    images: options.Images = None,
    questions: options.Questions = None,
    similarity: options.Similarity = None,
    rules: options.Rules = None,
    workers: options.Workers = None,
    recipe: options.Recipe = None,
    config: options.Config = None,
    assignments: options.Set = None,
    seed: options.Seed = None,
    policy: options.Reference = None,
    ranks: options.TrainingRanks = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what is to be done, and how long it takes; start nothing."),
    ] = False,
) -> None:
    """Everything: evaluate, then curate, train, swap and evaluate for each round."""
    from hermes_cli.run.event_log import RunRequest
    from hermes_cli.stages.stopping import Goal

    goal = "" if until is None else str(Goal.parse(until))
    request = RunRequest(rounds=rounds, until=goal, patience=patience, ranks=ranks or 1)
    folder, settings = options.run_asked(context)
    from hermes_cli.stages.self_play import run_rounds

    if dry_run:
        from hermes_cli.plan.run import show_run_plan

        show_run_plan(folder, settings, request)
        return
    run_rounds(folder, settings, request)


@app.command()
def demo(run: Annotated[Path, typer.Option("--run", help="Folder of the run.")] = Path("runs/demo")) -> None:
    """One round on a few dozen items of the embedded world, in minutes."""
    from hermes_cli.recipes import DEFAULT, DEMO
    from hermes_cli.run.event_log import RunRequest
    from hermes_cli.run.folder import asked
    from hermes_cli.stages.self_play import run_rounds
    from hermes_cli.view import say

    folder, settings = asked(run, DEFAULT, DEMO)
    run_rounds(folder, settings, RunRequest(rounds=1))
    say(f"candidate sheet: {folder.curation(1) / 'sheet.png'}")
    say("48 items and 10 steps show how a round is made; to move the gap takes more (README.md)")


@app.command()
def pretrain(
    to: Annotated[Path, typer.Option("--to", help="Folder to train in; an interrupted run goes on.")],
    config: options.Config = None,
    assignments: options.Set = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads.")] = 1,
) -> None:
    """Train the embedded model from scratch: image tokenizer, then Show-o, then its card."""
    from hermes_cli.commands.pretrain import run_pretraining

    run_pretraining(to, config, assignments or [], threads)


app.command("config")(show_config)
app.command("import")(import_release)
app.command("export")(export_release)
app.command("questions")(make_questions)
app.command("pairs")(show_pairs)
app.command("import-pairs")(import_foreign_pairs)
app.command("inspect")(inspect_curation)
app.command("report")(make_report)
app.command("status")(show_status)


@app.command("help", hidden=True)
def show_help(command: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Say what a command does."""
    app([*(command or ()), "--help"])


def _require_own_packages() -> None:
    """Raises ConfigError where Python would take files of the user's for one of our packages."""
    from engine.errors import ConfigError

    for name in ("engine", "curate", "train"):
        found = find_spec(name)
        place = found and (found.origin or next(iter(found.submodule_search_locations or ()), None))
        if place != str(Path(__file__).parents[1] / name / "__init__.py"):
            raise ConfigError(
                f"{place} hides the package `{name}` of Hermes; take its folder from PYTHONPATH"
            )


def main() -> None:
    """Runs the command line; an error that a user can mend is one line and status 1."""
    from engine.errors import HermesError
    from engine.files.atomic import refused_write

    # No Python that a command starts takes a user's train.py, which lies where she types, for ours.
    os.environ["PYTHONSAFEPATH"] = "1"
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        # A process that a command has started leaves the words to it.
        if "HERMES_PARENT" not in os.environ:
            with suppress(RuntimeError):  # It came amidst a write.
                typer.secho("hermes: stopped; the same command goes on from there", fg="yellow", err=True)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Captions hold what an old terminal cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _require_own_packages()
        app()
    except BaseException as error:
        sys.stdout.flush()
        if received:
            # Worker threads of torch and vLLM may hold the interpreter at exit after an interrupt.
            os._exit(128 + received[0])
        line = error if isinstance(error, HermesError) else refused_write(error)
        if line is None:
            raise
        typer.secho(f"hermes: {line}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
