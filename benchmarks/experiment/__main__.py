"""Runs a grid of self-play runs, and writes what they found.

Every cell, a row of the grid under one seed of training, is a `hermes run` in a folder of its own. What
cells have in common is done once. Killed anywhere, the same command goes on; a cell that fails is reported,
and the others go on. The results are written again whenever a cell is complete, and with --final the
measurements beside them, from which another machine goes on.

Rows are measured on validation while settings are chosen. --final measures them on the evaluation split,
each once: a look is entered beside the results, and a second one under other settings is refused unless
asked for.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.experiment.cells import Cell, Curation, Final, Task
from benchmarks.experiment.collect import collect
from benchmarks.experiment.estimate import rates, seconds_left, told
from benchmarks.experiment.grid import SHIPPED, Grid, Row, chosen_rows, chosen_seeds, load_grid
from benchmarks.experiment.keeping import keep, kept_path, require_same_bases, restore
from benchmarks.experiment.looks import Looks
from benchmarks.experiment.planning import Plan, plan
from benchmarks.experiment.results import Results
from benchmarks.experiment.runner import Failure, Runner, cores_for, held
from engine.errors import ConfigError, HermesError
from engine.files.atomic import write_file

RESULTS = Path("benchmarks/results")
LEDGER = "experiment-looks.json"


def options() -> argparse.ArgumentParser:
    """Which grid, which of its cells, and where to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--grid", type=Path, default=SHIPPED, help="TOML file [the shipped grid]")
    parser.add_argument("--to", type=Path, default=Path("runs/experiment"))
    parser.add_argument("--rows", default="", help="names, with commas between [all]")
    parser.add_argument("--seeds", default="", help="of training, with commas between [all of each row]")
    parser.add_argument("--final", action="store_true", help="measure on the evaluation split")
    parser.add_argument("--look-again", action="store_true", help="with --final, under other settings")
    parser.add_argument(
        "--afresh", action="store_true", help="with --final, without what was measured before"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what is to be done; start nothing")
    parser.add_argument("--jobs", type=int, default=1, help="cells side by side, each on a core of its own")
    parser.add_argument(
        "--results",
        type=Path,
        help=f"JSON to write [{RESULTS}/experiment.json with --final, else experiment-validation.json]",
    )
    return parser


def results_path(given: argparse.Namespace) -> Path:
    """Where results go: those of the two splits never replace each other."""
    name = "experiment.json" if given.final else "experiment-validation.json"
    return given.results or RESULTS / name


def show(plan_: Plan, jobs: int) -> None:
    """Prints every task, what it shares, and about how long it takes."""
    done = [task for task in plan_.tasks if task.done()]
    rate = rates(done)
    for task in plan_.tasks:
        left = seconds_left(task, rate)
        state = "done" if not left else f"about {told(left)}"
        print(f"{task.name:44} {state:>12}  {_shares(task)}".rstrip())
    total = sum(seconds_left(task, rate) for task in plan_.tasks) / jobs
    print(f"{len(done)} of {len(plan_.tasks)} done; the rest takes about {told(total)} with --jobs {jobs}")


def _shares(task: Task) -> str:
    if isinstance(task, Cell):
        rows = f"; rows {', '.join(task.rows)}" if len(task.rows) > 1 else ""
        return f"rounds: {task.rounds}, from {task.base.name} and {task.curation.name}{rows}"
    if isinstance(task, Final):
        return f"rounds: {task.rounds}, from {task.base.name}"
    if isinstance(task, Curation):
        wider = f", of the candidates of {task.wider.name}" if task.wider else ""
        return f"curates round 1 of {task.settings.curate.limit} items, n = {task.settings.curate.n}{wider}"
    return "measures the base model"


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in text.split(",") if one.strip())
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r}: give numbers with commas between") from error


def selected(grid: Grid, rows: str, seeds: str) -> list[tuple[Row, Sequence[int]]]:
    """The rows, with the seeds of each, that are asked for."""
    wanted = _seeds(seeds)
    cells = [(row, chosen_seeds(row, wanted)) for row in chosen_rows(grid, rows)]
    found: list[tuple[Row, Sequence[int]]] = [(row, some) for row, some in cells if some or not row.rounds]
    if not found:
        raise ConfigError(f"--seeds {seeds}: no row has one of them")
    return found


def run(given: argparse.Namespace) -> list[Failure]:
    """Does what the options ask for, and returns what failed.

    Raises:
        HermesError: the grid cannot be run, or a row must not be looked at.
    """
    grid = load_grid(given.grid)
    cells = selected(grid, given.rows, given.seeds)
    path = results_path(given)
    looks = Looks(path.with_name(LEDGER))
    if given.final:
        looks.require(grid, [row for row, _ in cells], given.look_again)
    root = given.to.resolve()
    if given.final and not given.afresh and (count := restore(kept_path(path), root)):
        print(f"{kept_path(path)}: {count} files of what was measured before put into {root}", flush=True)
    planned = plan(root, grid, cells, given.final)
    if given.dry_run:
        show(planned, given.jobs)
        return []
    cores_for(given.jobs)
    require_same_bases(planned.tasks)
    # The results tell of all rows of the grid, whichever are run now.
    everything = plan(root, grid, selected(grid, "", ""), given.final)

    def write(task: Task | None = None) -> None:
        found = collect(grid, everything, looks, given.final)
        write_file(path, msgspec.json.format(msgspec.json.encode(found)))
        if given.final:
            keep(root, everything.tasks, kept_path(path))

    def look(task: Task) -> None:
        if given.final and not isinstance(task, Cell):
            for name in task.rows:
                looks.enter(grid, grid.find(name), datetime.date.today().isoformat())

    with held(root):
        runner = Runner(planned.tasks, given.jobs, look, write, lambda line: print(line, flush=True))
        print(runner.left(), flush=True)
        failures = runner.run()
        write()
    tell(msgspec.json.decode(path.read_bytes(), type=Results))
    print(f"written to {path}")
    return failures


def tell(results: Results) -> None:
    """Prints each row's last round."""
    for row in results.rows:
        for one in row.rounds[-1:]:
            gained = "" if one.gen_gain is None else f", {one.gen_gain:+.3f} since the base"
            seeds = f"{len(one.seeds)} of {len(row.seeds)} seeds" if row.seeds else "no training"
            print(
                f"{row.name:20} round {one.round}: und {one.und:.3f}  gen {one.gen:.3f}  gap {one.gap:.3f}"
                f"  ({seeds}{gained})"
            )


def main() -> None:
    """One line for what cannot be done; status 1 where a cell failed."""
    try:
        failures = run(options().parse_args())
    except HermesError as error:
        sys.exit(f"experiment: {error}")
    except KeyboardInterrupt:
        print("experiment: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    for one in failures:
        print(f"experiment: {one.task} failed: {one.line}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
