"""What a run has done, in order: a line for each stage that began or ended, appended and never changed.

Which stages are complete is told by their own files; this log says when, and what went wrong on the way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from engine.errors import HermesError
from engine.files.atomic import writing
from engine.records import Record

Event = Literal["begun", "done", "failed", "stopped", "swapped"]


class Transition(Record, omit_defaults=True):
    """One line."""

    time: float
    """Seconds since the epoch."""
    round: int
    stage: str
    """curate, reference, train, eval; engine: its start; swap: of its weights; run: `hermes run` itself."""
    event: Event
    """stopped: interrupted by the user."""
    weights: str = ""
    """Fingerprint of the weights that sample, that serve, or that training has made."""
    engine: int | None = None
    """Swaps since the engine's start."""
    reason: str = ""


def note(
    log: Path,
    number: int,
    stage: str,
    event: Event,
    weights: str = "",
    engine: int | None = None,
    reason: str = "",
) -> None:
    """Appends a line, which is on disk when this returns.

    Raises:
        DataError: the file system refuses.
    """
    line = Transition(
        time=round(time.time(), 3),
        round=number,
        stage=stage,
        event=event,
        weights=weights,
        engine=engine,
        reason=one_line(reason),
    )
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab+") as stream:
            # A kill or a power loss may have torn the last line: it stays, and is no part of this one.
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1))
            torn = stream.read() not in (b"", b"\n")
            stream.write(b"\n" * torn + msgspec.json.encode(line) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def note_failure(
    log: Path,
    number: int,
    stage: str,
    error: BaseException,
    weights: str = "",
    engine: int | None = None,
    besides: str = "",
) -> None:
    """Appends how a stage ended that raised; a disk that takes no more must not hide the error itself."""
    event: Event = "failed"
    reason = one_line(error) or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        event, reason = "stopped", "interrupted"
    with suppress(HermesError):
        note(log, number, stage, event, weights, engine, reason + besides)


def one_line(reason: object) -> str:
    """A reason without line breaks."""
    return " ".join(str(reason).split())


def read_transitions(log: Path) -> list[Transition]:
    """All lines that can be read; none where there is no log."""
    if not log.is_file():
        return []
    found = []
    for line in log.read_bytes().splitlines():
        try:
            found.append(msgspec.json.decode(line, type=Transition))
        except msgspec.MsgspecError:
            continue
    return found


class Attempt(Record):
    """A stage from its beginning to its end, or to where it was cut off."""

    began: float
    round: int
    stage: str
    end: str
    """An event; or `cut off`: killed without a word, for another stage began after it; or `open`: nothing
    came after it yet."""
    seconds: float | None
    """None where nobody saw the end."""
    weights: str
    engine: int | None
    reason: str


def attempts(transitions: Iterable[Transition]) -> list[Attempt]:
    """Beginnings and ends put together, in the order of the beginnings."""
    found: list[Attempt] = []
    open_: dict[tuple[int, str], int] = {}
    for one in transitions:
        key = (one.round, one.stage)
        if one.event == "begun":
            # Stages of a run follow one another: what is still open was killed. The run itself lasts on.
            for other in [each for each in open_ if each[1] != "run" or one.stage == "run"]:
                place = open_.pop(other)
                found[place] = msgspec.structs.replace(found[place], end="cut off")
            open_[key] = len(found)
            found.append(_attempt(one, "open", None))
        elif key in open_:
            place = open_.pop(key)
            begun = found[place]
            ended = _attempt(one, one.event, one.time - begun.began)
            weights, reason = one.weights or begun.weights, one.reason or begun.reason
            found[place] = msgspec.structs.replace(ended, began=begun.began, weights=weights, reason=reason)
            if one.event in ("failed", "stopped") and (run := open_.pop((0, "run"), None)) is not None:
                # A run ends with its stage, and the stage has said why.
                took = one.time - found[run].began
                found[run] = msgspec.structs.replace(found[run], end=one.event, seconds=took)
        else:
            found.append(_attempt(one, one.event, None))
    return found


def _attempt(one: Transition, end: str, seconds: float | None) -> Attempt:
    return Attempt(
        began=one.time,
        round=one.round,
        stage=one.stage,
        end=end,
        seconds=seconds,
        weights=one.weights,
        engine=one.engine,
        reason=one.reason,
    )
