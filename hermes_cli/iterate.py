"""`hermes run`: rounds of curate, train, swap, evaluate, with one engine kept alive throughout."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext

from engine.errors import HermesError
from hermes_cli.curate_stage import curate_round, training_source
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
from hermes_cli.view import say


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


def run_rounds(folder: RunFolder, settings: RunSettings, rounds: int) -> Report:
    """Brings a run to `rounds` rounds; whatever is complete on disk is not done again."""
    folder.require_base()
    source, held_out = training_source(settings), held_out_source(settings)
    with open_engine(settings, folder.checkpoint(0)) as engine:
        if not evaluated(folder, settings, 0):
            evaluate_round(engine, folder, settings, 0, held_out)
        for number in range(1, rounds + 1):
            if not folder.trained(number):
                if not folder.pairs(number).is_file():
                    curate_round(folder, settings, number, source, lambda: nullcontext(engine))
                train_in_child(folder, number)
            engine.swap(folder.checkpoint(number))
            say(f"swapped to the weights of round {number} (engine version {engine.version})")
            if not evaluated(folder, settings, number):
                evaluate_round(engine, folder, settings, number, held_out)
    return finish(folder)
