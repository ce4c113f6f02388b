"""Which stage of a round is at work: a small file that stands while it is, for `hermes status` to read."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from engine.files.atomic import write_file
from engine.records import Record


class Running(Record):
    """A stage at work, or one that was killed there."""

    stage: str
    pid: int
    host: str
    born: str
    """When the process began, as its system counts; empty where it does not tell. Pids are used again."""
    started: float
    """Seconds since the epoch."""
    first: int
    """How many units were done when it started."""
    done: int
    """How many are done, where no other file of the stage tells."""
    total: int | None
    """How many there are; None where the settings tell."""

    @property
    def alive(self) -> bool:
        """Whether the process still runs; on another machine that cannot be seen, and is assumed."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return self.born == _born(self.pid)


class Announcement:
    """The file of a stage at work."""

    def __init__(self, path: Path, stage: str, first: int, total: int | None) -> None:
        self._path = path
        self.weights = ""
        """Fingerprint that the run's log has beside the stage's end."""
        self._now = Running(
            stage=stage,
            pid=os.getpid(),
            host=socket.gethostname(),
            born=_born(os.getpid()),
            started=time.time(),
            first=first,
            done=first,
            total=total,
        )
        self._write()

    def advance(self, count: int) -> None:
        """So many more units are done."""
        self._now = msgspec.structs.replace(self._now, done=self._now.done + count)
        self._write()

    def _write(self) -> None:
        write_file(self._path, msgspec.json.encode(self._now))


@contextmanager
def announced(path: Path, stage: str, first: int, total: int | None) -> Iterator[Announcement]:
    """The file stands while the block runs."""
    announcement = Announcement(path, stage, first, total)
    try:
        yield announcement
    finally:
        path.unlink(missing_ok=True)


def read_running(path: Path) -> Running | None:
    """The announcement in a file; None where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None


def forget_dead(path: Path) -> None:
    """Removes what a stage left that was killed when all its work was done."""
    found = read_running(path)
    if found is not None and not found.alive:
        path.unlink(missing_ok=True)


def _born(pid: int) -> str:
    """When a process began, in clock ticks since its system started."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The second field is the program's name in brackets, which may hold anything.
    return stat[stat.rfind(")") :].split()[20]
