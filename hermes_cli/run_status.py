"""Where a run stands, read from its files: which stages are done, at work, stopped or waiting."""

from __future__ import annotations

import socket
import time
from typing import Literal

import msgspec

from curate.shards import is_locked
from engine.records import Record
from hermes_cli.progress import STAGES, UNITS, is_done, is_imported, pairs_in, size_on_disk, units_done
from hermes_cli.run_folder import RunFolder
from hermes_cli.running import Running, read_running
from hermes_cli.settings import RunSettings

State = Literal["done", "running", "stopped", "waiting"]


class StageStatus(Record):
    """One stage of a round."""

    stage: str
    state: State
    """stopped: begun, and no process is at work on it; the same command goes on from there."""
    done: int
    total: int | None
    """None where nobody knows."""
    unit: str
    """What is counted."""
    seconds: float
    """Wall time so far."""
    eta_seconds: float | None
    """Until a running stage ends, by its rate since it started; None where that cannot be said."""
    note: str = ""


class RoundStatus(Record):
    """One round; round 0 is the base model, which is only evaluated."""

    round: int
    stages: tuple[StageStatus, ...]
    bytes: int
    """On disk."""
    locked: bool
    """Whether a process holds the round's curation open."""


class RunStatus(Record):
    """A run."""

    run: str
    rounds: tuple[RoundStatus, ...]
    bytes: int
    locked: bool


def read_status(folder: RunFolder, settings: RunSettings) -> RunStatus:
    """The state of a run at this moment; writes nothing."""
    now = time.time()
    rounds = tuple(_round(folder, settings, number, now) for number in folder.begun())
    return RunStatus(
        run=str(folder.root),
        rounds=rounds,
        bytes=size_on_disk(folder.root),
        locked=any(one.locked for one in rounds),
    )


def _round(folder: RunFolder, settings: RunSettings, number: int, now: float) -> RoundStatus:
    running = read_running(folder.running(number))
    seconds = _seconds(folder, number)
    stages = []
    for stage in STAGES if number else ("eval",):
        at_work = running if running and running.stage == stage else None
        stages.append(_stage(folder, settings, number, stage, seconds.get(stage, 0.0), at_work, now))
    return RoundStatus(
        round=number,
        stages=tuple(stages),
        bytes=size_on_disk(folder.round(number)),
        locked=is_locked(folder.curation(number)),
    )


def _stage(
    folder: RunFolder,
    settings: RunSettings,
    number: int,
    stage: str,
    seconds: float,
    begun: Running | None,
    now: float,
) -> StageStatus:
    """`begun` is what a stage at work, or one that was killed, left of itself."""
    alive = begun is not None and begun.alive
    complete = is_done(folder, number, stage)
    done = units_done(folder, number, stage)
    total = _total(folder, settings, number, stage)
    eta = None
    if begun is not None:
        done = max(done, begun.done)
        total = total if begun.total is None else begun.total
        if alive:
            seconds += now - begun.started
            eta = _eta(done - begun.first, total and total - done, now - begun.started)
    elif complete:
        total = done
    state: State = "running" if alive else "done" if complete else "stopped" if done or begun else "waiting"
    note = "imported" if stage == "curate" and is_imported(folder, number) else ""
    if begun is not None and alive and begun.host != socket.gethostname():
        note = f"on {begun.host}"
    return StageStatus(
        stage=stage,
        state=state,
        done=done,
        total=total,
        unit=UNITS[stage],
        seconds=seconds,
        eta_seconds=eta,
        note=note,
    )


def _eta(gained: int, left: int | None, spent: float) -> float | None:
    """Seconds until nothing is left, at the rate so far."""
    return max(left, 0) * spent / gained if gained > 0 and left is not None else None


def _total(folder: RunFolder, settings: RunSettings, number: int, stage: str) -> int | None:
    """How many units the settings promise; None where only the data set tells."""
    if stage == "curate":
        return settings.curate.limit or settings.curate.select or None
    if stage == "reference":
        return pairs_in(folder, number) or None
    return settings.train.steps if stage == "train" else settings.eval.limit or None


def _seconds(folder: RunFolder, number: int) -> dict[str, float]:
    try:
        return folder.seconds(number)
    except msgspec.MsgspecError:
        return {}
