"""Where a run stands, read from its files: which stages are done, at work, stopped or waiting."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from curate.store.shards import is_locked
from engine.errors import ConfigError
from engine.records import Record
from hermes_cli.run.event_log import Transition, read_transitions
from hermes_cli.run.folder import RunFolder
from hermes_cli.run.heartbeat import Running, read_running
from hermes_cli.run.progress import STAGES, UNITS, is_done, pairs_in, size_on_disk, units_done
from hermes_cli.run.request import Asked, read_asked
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
    asked: Asked | None
    """What `hermes run` was last asked for; None where nobody asked."""
    eta_seconds: float | None
    """Until all that was asked for is done; None where no finished stage tells how long one takes."""
    last: Transition | None
    """What the run did last."""


def read_status(folder: RunFolder, settings: RunSettings, asked: Asked | None = None) -> RunStatus:
    """The state of a run at this moment; writes nothing.

    `asked` is what it is to do, by default what `hermes run` was last asked for.
    """
    now = time.time()
    asked = asked or read_asked(folder.asked)
    coming = range(asked.rounds + 1) if asked and not asked.ended else ()
    numbers = sorted({*folder.begun(), *coming})
    rounds = tuple(_round(folder, settings, number, now) for number in numbers)
    transitions = read_transitions(folder.log)
    return RunStatus(
        run=str(folder.root),
        rounds=rounds,
        bytes=size_on_disk(folder.root),
        locked=any(one.locked for one in rounds),
        asked=asked,
        eta_seconds=seconds_left([one for one in rounds if one.round in coming]),
        last=transitions[-1] if transitions else None,
    )


def seconds_left(rounds: Sequence[RoundStatus]) -> float | None:
    """What the stages of these rounds that are not done will take; None where no stage of a kind is done."""
    pace = paces(rounds)
    left = 0.0
    for one in (stage for each in rounds for stage in each.stages if stage.state != "done"):
        # How many items there are is up to the data: settings only bound it.
        total = one.total if one.stage in ("reference", "train") else None
        if total is None and one.stage in pace:
            total = pace[one.stage].done
        seconds = seconds_of(one, max(0, (total or 0) - one.done), pace)
        if seconds is None:
            return None
        left += seconds
    return left


def paces(rounds: Iterable[RoundStatus]) -> dict[str, StageStatus]:
    """The latest stage of each kind that is done and has a time."""
    stages = (stage for one in rounds for stage in one.stages)
    return {one.stage: one for one in stages if one.state == "done" and one.done and one.seconds}


def seconds_of(one: StageStatus, units: float, pace: Mapping[str, StageStatus]) -> float | None:
    """What so many more units of a stage will take; a stage at work goes by its own pace once it has one."""
    if one.eta_seconds is not None:
        return one.eta_seconds
    known = pace.get(one.stage)
    return None if known is None else units * known.seconds / known.done


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
    complete = is_done(folder, number, stage, settings.eval)
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
    note = "imported" if stage == "curate" and folder.imported(number) else ""
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
    if stage == "train":
        # Items without a pair count here, so where most_visits bounds the steps this is the most they can be.
        count = pairs_in(folder, number) or settings.curate.limit or settings.curate.select
        try:
            return settings.train.for_preferences(count).steps if count else settings.train.steps
        except ConfigError:
            return None
    return settings.eval.limit or None


def _seconds(folder: RunFolder, number: int) -> dict[str, float]:
    try:
        return folder.seconds(number)
    except msgspec.MsgspecError:
        return {}
