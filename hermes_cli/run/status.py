"""Where a run stands: which stages are done, at work, stopped or waiting, by its files and its events."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from curate.evaluation.config import EvalConfig
from engine.errors import UNREADABLE, ConfigError
from engine.records import Record
from hermes_cli.run.event_log import Event, RunRequest, earlier_kept, read_events
from hermes_cli.run.folder import RunFolder
from hermes_cli.run.state import RunState, state
from hermes_cli.settings import RunSettings

State = Literal["done", "running", "stopped", "waiting", "skipped"]
UNITS = {"curate": "items", "reference": "preferences", "train": "steps", "eval": "items"}
"""Stages of a round, and what is counted of each."""


class StageStatus(Record):
    """One stage of a round."""

    stage: str
    state: State
    """stopped: begun, and no process is at work on it; the same command goes on from there. skipped: the data
    leaves nothing to do."""
    done: int
    total: int | None
    """None where nobody knows."""
    unit: str
    """What is counted."""
    seconds: float
    """Wall time so far."""
    eta_seconds: float | None
    """Until a running stage ends, by its latest rate; None where that cannot be said."""
    note: str = ""


class RoundStatus(Record):
    """One round; round 0 is the base model, which is only evaluated."""

    round: int
    stages: tuple[StageStatus, ...]
    bytes: int
    """On disk."""


class RunStatus(Record):
    """A run."""

    run: str
    rounds: tuple[RoundStatus, ...]
    bytes: int
    request: RunRequest | None
    """What `hermes run` was last asked for; None where nobody asked."""
    ended: str
    """Why nothing of that is left to do; empty while something is."""
    eta_seconds: float | None
    """Until all that was asked for is done; None where no finished stage tells how long one takes."""
    last: Event | None
    """What the run did last."""
    note: str = ""


def read_status(folder: RunFolder, settings: RunSettings, request: RunRequest | None = None) -> RunStatus:
    """The state of a run at this moment; writes nothing.

    `request` is what it is to do, by default what `hermes run` was last asked for.
    """
    found = state(read_events(folder.events))
    ended = "" if request else found.ended
    request = request or found.request
    coming = range(request.rounds + 1) if request and not ended else ()
    rounds = tuple(
        RoundStatus(
            round=number,
            stages=tuple(
                _stage(folder, settings, number, stage, found) for stage in (UNITS if number else ("eval",))
            ),
            bytes=size_on_disk(folder.round(number)),
        )
        for number in sorted({*folder.begun(), *coming})
    )
    return RunStatus(
        run=str(folder.root),
        rounds=rounds,
        bytes=size_on_disk(folder.root),
        request=request,
        ended=ended,
        eta_seconds=seconds_left([one for one in rounds if one.round in coming]),
        last=found.last,
        note=earlier_kept(folder.root),
    )


def seconds_left(rounds: Sequence[RoundStatus]) -> float | None:
    """What the stages of these rounds that are not done will take; None where no stage of a kind is done."""
    pace = paces(rounds)
    left = 0.0
    for one in (stage for each in rounds for stage in each.stages if stage.state not in ("done", "skipped")):
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


def _stage(folder: RunFolder, settings: RunSettings, number: int, stage: str, run: RunState) -> StageStatus:
    found, now = run.latest(number, stage), time.time()
    at_work = found is not None and found.end == "open"
    complete = _is_done(folder, number, stage, settings.eval)
    # The files of a stage that is told to be done may have been removed, or be of other settings.
    begun = found is not None and found.end not in ("done", "skipped")
    skipped = found is not None and found.end == "skipped"
    stands: State = "done" if complete else "stopped" if begun else "skipped" if skipped else "waiting"
    done, seconds = (found.last.done, found.last.seconds) if found and (complete or begun) else (0, 0.0)
    if complete and not done and stage in ("curate", "reference"):
        done = pairs_in(folder, number)
    total = found.last.total if found and begun else None
    note = "imported" if stage == "curate" and folder.imported(number) else ""
    note = "no questions" if stands == "skipped" else note
    eta = None
    if found is not None and at_work:
        seconds += now - found.last.time
        eta = found.seconds_left(now)
        if found.first.process is not None:
            place = "" if found.first.process.is_here else f" on {found.first.process.host}"
            note = f"process {found.first.process.pid}{place}"
    return StageStatus(
        stage=stage,
        state="running" if at_work else stands,
        done=done,
        total=done or None
        if not at_work and stands in ("done", "skipped")
        else total or _total(folder, settings, number, stage),
        unit=UNITS[stage],
        seconds=seconds,
        eta_seconds=eta,
        note=note,
    )


class _MeasuredWith(Record):
    """What of a `GapReport` decides whether it is done: the whole record brings numpy along, which
    `hermes status` does without."""

    config: EvalConfig
    per_item: tuple[object, ...] = ()


def _is_done(folder: RunFolder, number: int, stage: str, evaluation: EvalConfig) -> bool:
    """Whether a stage is complete; an evaluation by other settings, or without its items, is not.

    Whether stored numbers are of the present weights is not looked at: that would read the weights.
    """
    if stage == "curate":
        return folder.curated(number)
    if stage == "reference":
        return folder.reference(number).is_dir()
    if stage == "train":
        return folder.trained(number)
    try:
        found = msgspec.json.decode(folder.evaluation(number).read_bytes(), type=_MeasuredWith)
    except (OSError, *UNREADABLE):
        return False
    return bool(found.per_item) and found.config == evaluation


def _total(folder: RunFolder, settings: RunSettings, number: int, stage: str) -> int | None:
    """How many units the settings promise; None where only the data set tells."""
    if stage == "curate":
        return settings.curate.limit or settings.curate.select or None
    if stage == "reference":
        return pairs_in(folder, number) or None
    if stage == "train":
        # Items without a pair count here, so where max_epochs bounds the steps this is the most they can be.
        count = pairs_in(folder, number) or settings.curate.limit or settings.curate.select
        try:
            return settings.train.for_preferences(count).steps if count else settings.train.steps
        except ConfigError:
            return None
    return settings.eval.limit or None


def pairs_in(folder: RunFolder, number: int) -> int:
    """Preferences of a round."""
    path = folder.pairs(number)
    if not path.is_file():
        return 0
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.endswith(b"\n"))


def size_on_disk(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed, and what vanishes meanwhile is left out."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(place) / name).st_size
            except OSError:
                continue
    return total
