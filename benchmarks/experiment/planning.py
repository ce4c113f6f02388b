"""Which tasks an experiment has: every row under every seed, and what cells have in common once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from benchmarks.experiment.cells import Base, Cell, Curation, Final, Measured, Task
from benchmarks.experiment.grid import Grid, Row
from benchmarks.experiment.narrowing import contains
from benchmarks.experiment.settings import CellSettings, digest
from engine.records import Record


class Plan(Record):
    """All tasks, those that others need first, and where each row's measurements lie."""

    tasks: tuple[Task, ...]
    measured: dict[str, tuple[tuple[int, Measured], ...]]
    """Row -> its (seed, task); of a row without rounds the base's, under seed -1."""


class _Planner:
    """Collects tasks by the folder they work in."""

    def __init__(self, root: Path, grid: Grid, final: bool) -> None:
        self.root, self.grid, self.final = root, grid, final
        self.tasks: dict[Path, Task] = {}
        # Of rows with the same settings the grid's first names the folder, whichever of them are run.
        trained = [row for row in reversed(grid.row) if row.rounds]
        self.names = {digest(grid.settled(row).training_basis): row.name for row in trained}

    def base(self, settings: CellSettings, rows: tuple[str, ...] = ()) -> Base:
        folder = self.root / "shared" / f"base-{digest(settings.base_basis)}"
        found = self.tasks.get(folder)
        if found is None or rows:
            merged = tuple(dict.fromkeys([*(found.rows if found else ()), *rows]))
            self.tasks[folder] = Base(folder=folder, settings=settings, rows=merged)
        one = self.tasks[folder]
        assert isinstance(one, Base)
        return one

    def curation(self, settings: CellSettings) -> Path:
        folder = self.root / "shared" / f"curation-{digest(settings.curation_basis)}"
        self.tasks.setdefault(folder, Curation(folder=folder, settings=settings))
        return folder

    def cell(self, row: Row, seed: int) -> Measured:
        """The row's cell, which it may share with rows of the same settings."""
        settings = self.grid.settled(row).with_seed(seed)
        key = digest(settings.training_basis)
        folder = _named(self.root / "cells", self.names[key], key) / f"seed-{seed}"
        base, curation = self.base(settings).folder, self.curation(settings)
        known = self.tasks.get(folder)
        rows: tuple[str, ...] = (row.name,)
        rounds = row.rounds
        if isinstance(known, Cell):
            rows, rounds = (*known.rows, row.name), max(rounds, known.rounds)
        one = Cell(
            folder=folder,
            settings=settings,
            rows=rows,
            seed=seed,
            rounds=rounds,
            base=base,
            curation=curation,
        )
        self.tasks[folder] = one
        return self._final(row, one) if self.final else one

    def _final(self, row: Row, cell: Cell) -> Final:
        settings = self.grid.final_eval(row).with_seed(cell.seed)
        folder = self.root / "final" / cell.folder.parent.name / cell.folder.name
        base = self.base(settings).folder
        one = Final(folder=folder, settings=settings, rows=cell.rows, cell=cell, base=base)
        self.tasks[folder] = one
        return one


def _named(parent: Path, name: str, key: str) -> Path:
    """`NAME-key` under a parent; whoever made the folder gave the name."""
    found = sorted(parent.glob(f"*-{key}"))
    return found[0] if found else parent / f"{name}-{key}"


def plan(root: Path, grid: Grid, cells: Sequence[tuple[Row, Sequence[int]]], final: bool) -> Plan:
    """The tasks of rows with the seeds that are wanted of each, the first seed of every row first."""
    planner = _Planner(root, grid, final)
    places: dict[str, dict[int, Path]] = {row.name: {} for row, _ in cells}
    for row, _ in cells:
        if not row.rounds:
            places[row.name][-1] = planner.base(grid.measured(row, final), (row.name,)).folder
    longest = max((len(seeds) for _, seeds in cells), default=0)
    for place in range(longest):
        for row, seeds in sorted(cells, key=lambda pair: not pair[0].default):
            if place < len(seeds) and row.rounds:
                places[row.name][seeds[place]] = planner.cell(row, seeds[place]).folder
    tasks = _narrowed(_with_siblings(planner.tasks))
    measured = {
        name: tuple((seed, _measured(tasks[folder])) for seed, folder in found.items())
        for name, found in places.items()
    }
    return Plan(tasks=tuple(_ordered(_without_idle(tasks, final).values())), measured=measured)


def _without_idle(tasks: dict[Path, Task], final: bool) -> dict[Path, Task]:
    """Leaves out what is not done and not needed either, since all that it was for is measured."""
    ends = {
        folder: task
        for folder, task in tasks.items()
        if isinstance(task, Final if final else Cell) or (isinstance(task, Base) and task.rows)
    }
    done = {folder for folder, task in tasks.items() if task.done()}
    needed: set[Path] = set()
    waiting = [folder for folder in ends if folder not in done]
    while waiting:
        folder = waiting.pop()
        if folder not in needed:
            needed.add(folder)
            waiting += [one for one in tasks[folder].needs if one in tasks and one not in done]
    return {folder: task for folder, task in tasks.items() if folder in needed | done | ends.keys()}


def _measured(task: Task) -> Measured:
    assert isinstance(task, Base | Cell | Final)
    return task


def _with_siblings(tasks: dict[Path, Task]) -> dict[Path, Task]:
    """Cells learn of those with the same reference, and final measurements of their whole cell."""
    alike: dict[str, list[Path]] = {}
    cells = [task for task in tasks.values() if isinstance(task, Cell)]
    for one in cells:
        alike.setdefault(digest(one.settings.reference_basis), []).append(one.folder)
    found: dict[Path, Task] = dict(tasks)
    for one in cells:
        others = alike[digest(one.settings.reference_basis)]
        siblings = tuple(folder for folder in others if folder != one.folder)
        found[one.folder] = msgspec.structs.replace(one, siblings=siblings)
    for folder, task in tasks.items():
        if isinstance(task, Final):
            whole = found[task.cell.folder]
            assert isinstance(whole, Cell)
            found[folder] = msgspec.structs.replace(task, cell=whole, rows=whole.rows)
    return found


def _narrowed(tasks: dict[Path, Task]) -> dict[Path, Task]:
    """Curations that are still to be made learn of the widest that holds them."""
    curations = [task for task in tasks.values() if isinstance(task, Curation)]
    found: dict[Path, Task] = dict(tasks)
    for place, one in enumerate(curations):
        wider = [
            other
            for there, other in enumerate(curations)
            if other.folder != one.folder
            and contains(other.settings, one.settings)
            # Of two with the same candidates the first is sampled.
            and (there < place or not contains(one.settings, other.settings))
        ]
        if wider and not one.done():
            best = max(wider, key=lambda other: (other.settings.curate.n, other.settings.curate.limit))
            found[one.folder] = msgspec.structs.replace(one, wider=best.folder, wide=best.settings)
    return found


def _ordered(tasks: Iterable[Task]) -> list[Task]:
    """What others need first: a task's needs are before it, else the order in which they were planned."""
    waiting = {task.folder: task for task in tasks}
    found: list[Task] = []

    def add(task: Task) -> None:
        if waiting.pop(task.folder, None) is not None:
            for folder in task.needs:
                if folder in waiting:
                    add(waiting[folder])
            found.append(task)

    for task in list(waiting.values()):
        add(task)
    return found
