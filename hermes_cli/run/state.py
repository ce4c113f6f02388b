"""What the events of a run come to: attempts at its stages, their counts, times and ends. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from engine.records import Record
from hermes_cli.run.event_log import Event, Process, RunRequest

Alive = Callable[[Process], bool]


class Attempt(Record):
    """A stage from its beginning to its end, or to the last that is known of it."""

    first: Event
    last: Event
    end: str
    """The event that ended it; or `cut off`: killed without a word; or `open`: it is at work."""
    progress: tuple[Event, ...]

    @property
    def took(self) -> float | None:
        """Seconds; None where nobody saw its beginning and its end."""
        seen = self.first is not self.last and self.end not in ("open", "cut off")
        return self.last.time - self.first.time if seen else None

    def seconds_left(self, now: float) -> float | None:
        """By the rate of about the latter half of its time; None where it has none yet, or no total."""
        if not self.progress or self.last.total is None:
            return None
        middle = (self.progress[0].time + now) / 2
        since = [one for one in self.progress if one.time <= middle][-1]
        gained, left = self.last.done - since.done, max(self.last.total - self.last.done, 0)
        return left * (now - since.time) / gained if gained > 0 else None


class RunState(Record):
    """What a run has done and is doing."""

    attempts: tuple[Attempt, ...]
    """In the order of their beginnings."""
    request: RunRequest | None
    """What `hermes run` was last asked for; None where nobody asked."""
    ended: str
    """Why nothing of that is left to do; empty while something is."""
    last: Event | None
    """The latest event that is more than progress."""

    def latest(self, number: int, stage: str) -> Attempt | None:
        """The last attempt at a stage."""
        found = [one for one in self.attempts if (one.first.round, one.first.stage) == (number, stage)]
        return found[-1] if found else None

    def seconds(self, number: int) -> dict[str, float]:
        """Stage -> seconds of a round."""
        lasts = (one.last for one in self.attempts if one.first.round == number)
        return {one.stage: one.seconds for one in lasts if one.seconds}


def state(events: Iterable[Event], alive: Alive = lambda process: process.is_alive) -> RunState:
    """What a run's events come to; `alive` tells a stage at work from one that was killed."""
    groups: list[list[Event]] = []
    open_: dict[tuple[int, str], list[Event]] = {}
    request, ended, last = None, "", None
    for one in events:
        key = (one.round, one.stage)
        if one.event == "begun" or key not in open_:
            groups.append([])
        if one.event == "begun":
            # What is still open of the same stage was killed.
            open_[key] = groups[-1]
        open_.get(key, groups[-1]).append(one)
        if one.event == "progress":
            continue
        last = one
        if one.event != "begun":
            open_.pop(key, None)
        if one.event in ("failed", "stopped") and (run := open_.pop((0, "run"), None)) is not None:
            # A run ends with its stage, and the stage has said why.
            run.append(replace(run[0], event=one.event, time=one.time))
        if one.stage == "run" and one.event in ("begun", "done"):
            request, ended = one.request or request, one.reason if one.event == "done" else ""
    at_work = [group for group in open_.values() if group[0].process is None or alive(group[0].process)]
    attempts = tuple(_attempt(group, any(group is one for one in at_work)) for group in groups)
    return RunState(attempts=attempts, request=request, ended=ended, last=last)


def _attempt(events: list[Event], at_work: bool) -> Attempt:
    first, last = events[0], events[-1]
    end: str = last.event
    if end in ("begun", "progress"):
        end = "open" if at_work else "cut off"
    # The beginning may know the weights or the reason.
    last = replace(last, weights=last.weights or first.weights, reason=last.reason or first.reason)
    progress = tuple(one for one in events if one.event == "progress")
    return Attempt(first=first, last=last if len(events) > 1 else first, end=end, progress=progress)
