"""What a run does, in one append-only file: a line when a stage begins, as it comes on, and when it ends.

Which stages are complete is told by their own files. These lines say who worked on what and when, how far a
stage has come, what it took and what went wrong; `hermes_cli.run.state` derives all else from them. A kill or
a power loss can tear the last line: readers leave it out, and the next writer begins a new one.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from engine.errors import UNREADABLE, HermesError
from engine.files.atomic import writing
from engine.records import Record

if TYPE_CHECKING:
    from hermes_cli.view import Advance

EVENTS = "events.jsonl"
EventKind = Literal["begun", "progress", "done", "failed", "stopped", "swapped", "skipped"]
INTERVAL, SHARE = 1.0, 0.01
"""Progress is written at most once in so many seconds, or in this share of the stage's time where that is
longer: a day makes no more than about 800 lines."""


class Process(Record):
    """A process, told from later ones of the same number."""

    pid: int
    host: str
    start: str
    """Its system's boot, and when in it the process began; empty where the system does not tell."""

    @classmethod
    def this(cls) -> Process:
        """The one that asks."""
        return cls(pid=os.getpid(), host=socket.gethostname(), start=_start_of(os.getpid()))

    @property
    def is_here(self) -> bool:
        """Whether it is one of this machine's."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs; on another machine that cannot be seen, and is assumed."""
        if not self.is_here:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return self.start == _start_of(self.pid)


def _start_of(pid: int) -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The second field is the program's name in brackets, which may hold anything; the 22nd is in clock ticks.
    return f"{boot} {stat[stat.rfind(')') :].split()[20]}"


class RunRequest(Record):
    """What `hermes run` was asked for."""

    rounds: int
    until: str = ""
    """Goal after which no round follows; empty is none."""
    patience: int = 0
    """Rounds in a row that may pass without a new best one; 0 is any number."""
    ranks: int = 1
    """Processes of training."""

    @property
    def words(self) -> str:
        """`9 rounds, until gap < 0.04`."""
        said = [f"{self.rounds} round{'' if self.rounds == 1 else 's'}"]
        said += [f"until {self.until}"] if self.until else []
        said += [f"patience {self.patience}"] if self.patience else []
        said += [f"{self.ranks} ranks"] if self.ranks > 1 else []
        return ", ".join(said)


class Event(Record, omit_defaults=True):
    """One line."""

    round: int
    stage: str
    """curate, reference, train, eval; engine: its start; swap: of its weights; run: `hermes run` itself."""
    event: EventKind
    """stopped: interrupted by the user; skipped: there is nothing that it could do."""
    time: float = msgspec.field(default_factory=lambda: round(time.time(), 3))
    """Seconds since the epoch."""
    process: Process | None = None
    """Who begins; written by `log_event`."""
    done: int = 0
    """Units of the stage that are done: items, preferences or steps."""
    total: int | None = None
    """How many there are, where the stage knows."""
    seconds: float = 0.0
    """What the stage has taken so far, parts before an interruption included."""
    weights: str = ""
    """Fingerprint of the weights that sample, that serve, or that training has made."""
    engine: int | None = None
    """Swaps since the engine's start."""
    reason: str = ""
    request: RunRequest | None = None
    """What a run begins with."""


def log_event(log: Path, event: Event) -> None:
    """Appends a line; it is on disk when this returns, unless it tells of mere progress.

    Raises:
        DataError: the file system refuses.
    """
    process = event.process or Process.this() if event.event == "begun" else None
    event = msgspec.structs.replace(event, process=process, reason=one_line(event.reason))
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab+") as stream:
            # A torn last line stays, and is no part of this one.
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1))
            torn = stream.read() not in (b"", b"\n")
            stream.write(b"\n" * torn + msgspec.json.encode(event) + b"\n")
            stream.flush()
            if event.event != "progress":
                os.fsync(stream.fileno())


def log_failure(log: Path, event: Event, error: BaseException, besides: str = "") -> None:
    """Appends how a stage ended that raised; a disk that takes no more must not hide the error itself."""
    kind: EventKind = "failed"
    reason = one_line(error) or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        kind, reason = "stopped", "interrupted"
    with suppress(HermesError):
        log_event(log, msgspec.structs.replace(event, event=kind, reason=reason + besides))


def one_line(reason: object) -> str:
    """A reason without line breaks."""
    return " ".join(str(reason).split())


class StageLog:
    """A stage at work, which says how far it is."""

    def __init__(self, log: Path, number: int, stage: str, resumes: bool, total: int | None) -> None:
        """A stage that `resumes` what it left counts the seconds before an interruption, too."""
        self._log, self._stage, self._number = log, stage, number
        events = read_events(log) if resumes else []
        mine = (one for one in reversed(events) if (one.round, one.stage) == (number, stage) and one.seconds)
        left = next(mine, None)
        self._done, self._total = (left.done, left.total) if left else (0, None)
        self._total = total or self._total
        self._before = left.seconds if left else 0.0
        self._begun, self._written, self._counts = time.monotonic(), -math.inf, False
        self.weights = ""
        """Fingerprint to be written beside the stage's end."""
        self.bar: Advance | None = None
        """The bar that shows it."""

    def reached(self, done: int, total: int | None = None, note: str | Callable[[], str] = "") -> None:
        """So many units are done in all."""
        if self.bar is not None:
            self.bar(done - (self._done if self._counts else 0), note, total)
        self._counts, self._done, self._total = True, done, total or self._total
        now = time.monotonic()
        if now - self._written >= max(INTERVAL, SHARE * (now - self._begun)):
            log_event(self._log, self.event("progress"))
            self._written = now

    def advance(self, count: int, note: str | Callable[[], str] = "") -> None:
        """So many more units are done."""
        self.reached((self._done if self._counts else 0) + count, note=note)

    def event(self, kind: EventKind) -> Event:
        """An event of this stage at this moment."""
        return Event(
            round=self._number,
            stage=self._stage,
            event=kind,
            done=self._done,
            total=self._total,
            seconds=round(self._before + time.monotonic() - self._begun, 3),
            weights=self.weights,
        )


@contextmanager
def logged(
    log: Path, number: int, stage: str, resumes: bool = True, total: int | None = None, label: str = ""
) -> Iterator[StageLog]:
    """The stage that the block is: its beginning, its progress and its end, however it ends.

    With a `label` its progress is shown, too.
    """
    from hermes_cli.view import progress_bar

    stage_log = StageLog(log, number, stage, resumes, total)
    log_event(log, stage_log.event("begun"))
    shown: AbstractContextManager[Advance | None] = progress_bar(label, total) if label else nullcontext()
    try:
        with shown as stage_log.bar:
            yield stage_log
    except BaseException as error:
        log_failure(log, stage_log.event("failed"), error)
        raise
    log_event(log, stage_log.event("done"))


def earlier_kept(root: Path) -> str:
    """A line for a run of a version that kept other files instead of events; empty for all others."""
    found = [name for name in ("log.jsonl", "asked.json") if (root / name).is_file()]
    if not found or (root / EVENTS).is_file():
        return ""
    return (
        f"{root}: {found[0]} comes from an earlier version, whose stages this one does not go on with; begin "
        f"a new run in another folder, with --model {root}/round-N/checkpoint where its weights are wanted"
    )


def read_events(log: Path) -> list[Event]:
    """All lines that can be read; none where there is no log."""
    if not log.is_file():
        return []
    found = []
    for line in log.read_bytes().splitlines():
        try:
            found.append(msgspec.json.decode(line, type=Event))
        except UNREADABLE:
            continue
    return found
