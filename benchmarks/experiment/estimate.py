"""How long tasks will take, from the seconds that stages of like work took here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from benchmarks.experiment.cells import Cell, Curation, Final, Task
from benchmarks.experiment.settings import CellSettings
from benchmarks.experiment.sharing import EVENTS, SECONDS, round_folder
from curate.store.files import SUMMARY
from curate.store.summary import CurateSummary

ASSUMED = {"curate": 0.15, "reference": 0.03, "train": 0.01, "eval": 0.11}
"""Seconds for a unit on one core, as the embedded model took them, where nothing is measured yet."""
START, TRAINER = 20.0, 15.0
"""Seconds before a command's first stage, and before each training, which is a process of its own."""


def units(settings: CellSettings) -> dict[str, float]:
    """Stage -> how much there is to do in a round: candidates, preferences, rows trained on, images."""
    curate, train = settings.curate, settings.train.for_preferences(settings.curate.limit)
    return {
        "curate": curate.limit * curate.n * curate.paint.steps / 18,
        "reference": float(curate.limit),
        "train": train.steps * train.batch_size * sum(train.rows_on_average),
        "eval": settings.eval.limit * settings.eval.images * settings.eval.paint.steps / 18,
    }


def seconds_of(run: Path, number: int) -> dict[str, float]:
    """Stage -> seconds of a round, as the commands kept them; nothing where there are none."""
    found: dict[str, float] = {}
    earlier, events = round_folder(run, number) / SECONDS, run / EVENTS
    try:
        if earlier.is_file():
            found = msgspec.json.decode(earlier.read_bytes(), type=dict[str, float])
        for line in events.read_bytes().splitlines() if events.is_file() else ():
            event = msgspec.json.decode(line)
            if event["round"] == number and "seconds" in event:
                found[event["stage"]] = event["seconds"]
    except msgspec.MsgspecError:
        # A kill has torn the line.
        pass
    return found


def _sampled(task: Curation) -> bool:
    """Whether a curation sampled itself, instead of taking what a wider one has."""
    path = round_folder(task.folder, 1) / "curate" / SUMMARY
    found = msgspec.json.decode(path.read_bytes(), type=CurateSummary) if path.is_file() else None
    return found is not None and found.throughput is not None


def rates(done: Iterable[Task]) -> dict[str, float]:
    """Stage -> seconds a unit, over all tasks that are done; what is assumed where none has it."""
    spent = dict.fromkeys(ASSUMED, 0.0)
    work = dict.fromkeys(ASSUMED, 0.0)
    for task in done:
        if isinstance(task, Curation) and not _sampled(task):
            continue
        amount = units(task.settings)
        for number, stage in task.stages:
            if took := seconds_of(task.folder, number).get(stage):
                spent[stage] += took
                work[stage] += amount[stage]
    return {stage: spent[stage] / work[stage] if work[stage] else ASSUMED[stage] for stage in ASSUMED}


def seconds_left(task: Task, rate: dict[str, float]) -> float:
    """Seconds that a task still needs; stages whose time is kept count as done."""
    if task.done():
        return 0.0
    amount = units(task.settings)
    left = [stage for number, stage in task.stages if not _finished(task, number, stage)]
    return START + TRAINER * left.count("train") + sum(amount[stage] * rate[stage] for stage in left)


def _finished(task: Task, number: int, stage: str) -> bool:
    folder = round_folder(task.folder, number)
    if isinstance(task, Cell):
        if (folder / "checkpoint").is_dir() and stage != "eval":
            return True
        return stage == "eval" and task.has(number)
    if isinstance(task, Final):
        return task.has(number)
    return task.done()


def told(seconds: float) -> str:
    """`48 s`, `12 min`, `3 h 05`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d}"
