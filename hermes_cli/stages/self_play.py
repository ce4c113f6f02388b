"""`hermes run`: rounds of curate, train, swap, evaluate, with one engine that lives on once it is needed.

Every transition is on disk: a stage is complete when its files are, and the same command goes on from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from engine.errors import HermesError
from hermes_cli.reporting.build import build_report
from hermes_cli.reporting.records import Report
from hermes_cli.run.event_log import note, read_transitions
from hermes_cli.run.folder import RunFolder
from hermes_cli.run.heartbeat import forget_dead
from hermes_cli.run.request import Asked, write_asked
from hermes_cli.settings import RunSettings, store_settings
from hermes_cli.stages.curate import SHEET, curate_round, training_source
from hermes_cli.stages.engine_holder import LateEngine
from hermes_cli.stages.evaluate import evaluate_round, evaluated, finish, held_out_source
from hermes_cli.stages.launcher import PARENT
from hermes_cli.stages.stopping import Stopping
from hermes_cli.view import say

if TYPE_CHECKING:
    from curate.sources import Source


def train_in_child(folder: RunFolder, settings: RunSettings, number: int, ranks: int = 1) -> None:
    """Trains in a process of its own, which ends with this one: memory and process group go when it ends.

    Raises:
        HermesError: the training failed; its own line stands above.
    """
    from engine.serving.launch import environment_for_children

    # Commands that came meanwhile may have stored others; this run keeps to its own.
    store_settings(folder.settings, settings)
    command = [sys.executable, "-m", "hermes_cli.main", "train", "--run", str(folder.root)]
    command += ["--round", str(number), "--ranks", str(ranks)]
    child = subprocess.run(command, check=False, env={**environment_for_children(), PARENT: str(os.getpid())})
    if child.returncode:
        reason = f"training round {number} stopped with status {child.returncode}"
        if not any(one.event in ("failed", "stopped") for one in read_transitions(folder.log)[-1:]):
            # Killed, for want of memory for one: it had no time to say so.
            note(folder.log, number, "train", "failed", reason=reason)
        raise HermesError(f"{reason}; the same `hermes run` goes on from there")


def run_rounds(
    folder: RunFolder,
    settings: RunSettings,
    rounds: int,
    stopping: Stopping | None = None,
    ranks: int = 1,
) -> Report:
    """Brings a run to `rounds` rounds, or to the round after which `stopping` has a reason to stop.

    Whatever is complete on disk is not done again; an engine is started when a stage needs one. `ranks`
    processes train.

    Raises:
        BusyError: another `hermes run` is at work in the folder.
        ConfigError: the batch cannot be shared out among the ranks.
        EngineError: an engine or a swap failed; what is done is kept.
    """
    folder.require_base()
    require_shares(settings, ranks)
    stopping = stopping or Stopping()
    held_out = held_out_source(settings)
    training_source(settings)
    asked = asked_for(rounds, stopping, ranks)
    with folder.held(), LateEngine(folder, settings, ranks) as engine:
        _run(folder, settings, asked, stopping, engine, held_out)
    return finish(folder)


def asked_for(rounds: int, stopping: Stopping, ranks: int) -> Asked:
    """What is asked for, as it is kept."""
    return Asked(rounds=rounds, until=str(stopping.until or ""), patience=stopping.patience, ranks=ranks)


def require_shares(settings: RunSettings, ranks: int) -> None:
    """Raises ConfigError where the batch cannot be shared out among the ranks."""
    if ranks > 1:
        from train.distributed.deepspeed_config import shares

        shares(settings.train, ranks)


def _run(
    folder: RunFolder,
    settings: RunSettings,
    asked: Asked,
    stopping: Stopping,
    engine: LateEngine,
    held_out: Source,
) -> None:
    write_asked(folder.asked, asked)
    note(folder.log, 0, "run", "begun", reason=asked.words)
    ended = "all rounds are done"
    for number in range(asked.rounds + 1):
        if number:
            _bring_weights(folder, settings, number, asked.ranks, engine)
        if not evaluated(folder, settings, number):
            evaluate_round(engine.serving(number), folder, settings, number, held_out)
        forget_dead(folder.running(number))
        if why := _reason_to_stop(folder, number, stopping):
            say(f"stopped after round {number}: {why}")
            ended = f"stopped after round {number}: {why}"
            break
    write_asked(folder.asked, msgspec.structs.replace(asked, ended=ended))
    note(folder.log, 0, "run", "done", reason=ended)


def _bring_weights(
    folder: RunFolder, settings: RunSettings, number: int, ranks: int, engine: LateEngine
) -> None:
    """Curates and trains a round where that is not done, and tidies what a kill left of it."""
    if folder.trained(number):
        if not folder.curves(number).is_file() or any(folder.training(number).glob("state-*")):
            from hermes_cli.stages.train import tidy_training

            tidy_training(folder, settings, number)
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


def _reason_to_stop(folder: RunFolder, number: int, stopping: Stopping) -> str:
    if stopping == Stopping():
        return ""
    measured = [one for one in build_report(folder).rounds if one.round <= number]
    return stopping.why(measured) if measured else ""
