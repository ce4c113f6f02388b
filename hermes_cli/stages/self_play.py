"""`hermes run`: rounds of curate, train, swap, evaluate, with one engine that lives on once it is needed.

Every transition is on disk: a stage is complete when its files are, and the same command goes on from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.errors import ConfigError, HermesError
from hermes_cli.reporting.build import build_report
from hermes_cli.reporting.records import RunReport
from hermes_cli.run.event_log import Event, RunRequest, earlier_kept, log_event, read_events
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import RunSettings
from hermes_cli.stages.curate import SHEET, curate_round, training_source
from hermes_cli.stages.engine_holder import LazyEngine
from hermes_cli.stages.evaluate import bring_evaluation, eval_origin, finish, held_out_source, unknown_gap
from hermes_cli.stages.fitting import require_fitting
from hermes_cli.stages.launcher import PARENT
from hermes_cli.stages.stopping import why_stop
from hermes_cli.stages.unchanged import require_unchanged
from hermes_cli.view import say

if TYPE_CHECKING:
    from curate.evaluation.records import EvalOrigin
    from curate.sources import Source
    from train.config import TrainConfig


def train_in_child(folder: RunFolder, settings: RunSettings, number: int, ranks: int = 1) -> None:
    """Trains in a process of its own, which ends with this one: memory and process group go when it ends.

    Raises:
        HermesError: the training failed; its own line stands above.
    """
    from engine.serving.launch import environment_for_children

    # Commands that came meanwhile may have stored others; this run keeps to its own.
    folder.keep(settings)
    command = [sys.executable, "-m", "hermes_cli", "train", "--run", str(folder.root)]
    command += ["--round", str(number), "--ranks", str(ranks)]
    child = subprocess.run(command, check=False, env={**environment_for_children(), PARENT: str(os.getpid())})
    if child.returncode:
        reason = f"training round {number} stopped with status {child.returncode}"
        events = read_events(folder.events)
        if not events or events[-1].event not in ("failed", "stopped"):
            # Killed, for want of memory for one: it had no time to say so.
            begun = events[-1] if events and events[-1].stage == "train" else Event(number, "train", "failed")
            log_event(folder.events, replace(begun, event="failed", reason=reason, time=time.time()))
        raise HermesError(f"{reason}; the same `hermes run` goes on from there")


def run_rounds(folder: RunFolder, settings: RunSettings, request: RunRequest) -> RunReport:
    """Brings a run to so many rounds, or to the round that reaches the goal or ends the patience.

    Whatever is complete on disk is not done again; an engine is started when a stage needs one.

    Raises:
        BusyError: another `hermes run` is at work in the folder.
        ConfigError: the batch cannot be shared out among the ranks, or what is asked for needs questions.
        EngineError: an engine or a swap failed; what is done is kept.
    """
    _, held_out, origin = require_runnable(folder, settings, request)
    with folder.held(), closing(LazyEngine(folder, settings, request.ranks)) as engine:
        _run(folder, settings, request, engine, held_out, origin)
    return finish(folder)


def require_runnable(
    folder: RunFolder, settings: RunSettings, request: RunRequest
) -> tuple[Source, Source, EvalOrigin]:
    """The first round's items, the held-out ones and what decides a measurement, once nothing speaks against
    the run.

    Raises:
        HermesError: whatever would end the run before its first stage.
    """
    folder.require_base()
    require_shares(settings.train, request.ranks)
    require_fitting(settings, folder.checkpoint(0), request.ranks)
    held_out = held_out_source(settings)
    origin = eval_origin(folder, settings, held_out)
    source = training_source(settings)
    require_questions(settings, request, source, held_out)
    if request.rounds and not folder.curated(1):
        source.require_image()
    require_unchanged(folder, settings)
    return source, held_out, origin


def require_shares(config: TrainConfig, ranks: int) -> None:
    """Raises ConfigError where the batch cannot be shared out among the ranks."""
    if ranks > 1:
        from train.distributed.deepspeed_config import shares

        shares(config, ranks)


def require_questions(settings: RunSettings, request: RunRequest, source: Source, held_out: Source) -> None:
    """Raises ConfigError where captions alone cannot give what is asked for."""
    if (request.until or request.patience) and (why := unknown_gap(held_out)):
        what = f"--until {request.until}" if request.until else f"--patience {request.patience}"
        raise ConfigError(f"{what} cannot be told: {why}")
    train, rules = settings.train, settings.curate.rules
    if not source.counts.with_questions:
        asks = [f"train.objective {train.objective}"] if train.objective == "gen" or train.needs_both else []
        asks += [f"curate.rules {rules}"] if rules == "official" else []
        if asks:
            raise ConfigError(
                f"{asks[0]} needs image pairs, and no item of {source.name} has a question to score images "
                "with; write some with `hermes questions`, and give the file with --questions"
            )


def _run(
    folder: RunFolder,
    settings: RunSettings,
    request: RunRequest,
    engine: LazyEngine,
    held_out: Source,
    origin: EvalOrigin,
) -> None:
    if line := earlier_kept(folder.root):
        say(line)
    folder.keep(settings)
    log_event(folder.events, Event(0, "run", "begun", reason=request.words, request=request))
    ended = "all rounds are done"
    for number in range(request.rounds + 1):
        if number:
            _bring_weights(folder, settings, number, request.ranks, engine)
        bring_evaluation(folder, settings, number, held_out, origin, engine.serving)
        if why := _why_stop(folder, number, request):
            ended = f"stopped after round {number}: {why}"
            say(ended)
            break
    log_event(folder.events, Event(0, "run", "done", reason=ended))


def _bring_weights(
    folder: RunFolder, settings: RunSettings, number: int, ranks: int, engine: LazyEngine
) -> None:
    """Curates and trains a round where that is not done, and tidies what a kill left of it."""
    if folder.trained(number):
        if not folder.curves(number).is_file() or any(folder.training(number).glob("state-*")):
            from hermes_cli.stages.train import tidy_training

            tidy_training(folder, settings.train, number)
        return
    drawn = folder.imported(number) or (folder.curation(number) / SHEET).is_file()
    if not folder.curated(number) or not drawn:
        source = training_source(settings, number)
        serving = partial(engine.serving, number - 1)
        # Actors have engines of their own, where this one lies too.
        with engine.asleep() if settings.curate.workers == "ray" else nullcontext():
            curate_round(folder, settings, number, source, lambda: nullcontext(serving()))
    with engine.asleep():
        train_in_child(folder, settings, number, ranks)


def _why_stop(folder: RunFolder, number: int, request: RunRequest) -> str:
    if not request.until and not request.patience:
        return ""
    measured = [one for one in build_report(folder).rounds if one.round <= number]
    return why_stop(request, measured) if measured else ""
