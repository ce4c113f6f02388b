"""`hermes run`: rounds of curate, train, swap, evaluate, with one engine kept alive throughout."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from engine.errors import HermesError
from hermes_cli.curate_stage import curate_round, training_source
from hermes_cli.planning import plan_processes
from hermes_cli.reporting.build import build_report
from hermes_cli.reporting.records import Report
from hermes_cli.run_folder import RunFolder
from hermes_cli.settings import RunSettings
from hermes_cli.stages import (
    evaluate_round,
    evaluated,
    finish,
    held_out_source,
    open_engine,
)
from hermes_cli.stopping import Stopping
from hermes_cli.view import say

if TYPE_CHECKING:
    from curate.sources import Source


def train_in_child(folder: RunFolder, number: int) -> None:
    """Trains in a process of its own: the trainer's process group and memory go when it ends.

    Raises:
        HermesError: the training failed; its own line stands above.
    """
    command = [sys.executable, "-m", "hermes_cli.main", "train", "--run", str(folder.root)]
    code = subprocess.run([*command, "--round", str(number)], check=False).returncode
    if code:
        raise HermesError(
            f"training round {number} stopped with status {code}; the same `hermes run` goes on from there"
        )


def run_rounds(
    folder: RunFolder, settings: RunSettings, rounds: int, stopping: Stopping | None = None
) -> Report:
    """Brings a run to `rounds` rounds, or to the round after which `stopping` has a reason to stop.

    Whatever is complete on disk is not done again; where everything is, no engine is started.
    """
    folder.require_base()
    stopping = stopping or Stopping()
    source, held_out = training_source(settings), held_out_source(settings)
    first = _first_open(folder, settings, rounds, stopping)
    if first is not None:
        _run_from(folder, settings, first, rounds, stopping, source, held_out)
    return finish(folder)


def _first_open(folder: RunFolder, settings: RunSettings, rounds: int, stopping: Stopping) -> int | None:
    """The first round that is not complete; None where nothing is left to do."""
    for number in range(rounds + 1):
        if (number and not folder.trained(number)) or not evaluated(folder, settings, number):
            return number
        if _done(folder, number, stopping):
            return None
    return None


def _run_from(
    folder: RunFolder,
    settings: RunSettings,
    first: int,
    rounds: int,
    stopping: Stopping,
    source: Source,
    held_out: Source,
) -> None:
    serving = first if folder.trained(first) else first - 1
    plan = plan_processes(settings, folder.checkpoint(serving), samples=True, trains=True)
    with open_engine(settings, folder.checkpoint(serving), plan) as engine:
        for number in range(first, rounds + 1):
            if not folder.trained(number):
                if not folder.pairs(number).is_file():
                    curate_round(folder, settings, number, source, lambda: nullcontext(engine))
                with engine.asleep(plan.sleep):
                    train_in_child(folder, number)
            if serving != number:
                engine.swap(folder.checkpoint(number))
                serving = number
                say(f"swapped to the weights of round {number} (engine version {engine.version})")
            if not evaluated(folder, settings, number):
                evaluate_round(engine, folder, settings, number, held_out)
            if _done(folder, number, stopping):
                break


def _done(folder: RunFolder, number: int, stopping: Stopping) -> bool:
    if stopping == Stopping():
        return False
    measured = [one for one in build_report(folder).rounds if one.round <= number]
    why = stopping.why(measured) if measured else ""
    if why:
        say(f"stopped after round {number}: {why}")
    return bool(why)
