"""Runs a grid: each row under each seed of training is one `hermes run` in a folder of its own.

Killed anywhere, the same command goes on, since `hermes run` does; what was at work then ends by itself where
SIGKILL reached this process alone. A run that fails is reported with the last
line of its log, and the others go on. The results are written again whenever a run is complete.

The shipped grid measures on the evaluation split. Choose settings on a grid whose `eval.split` is validation,
as that of levers.toml.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.experiment.collect import collect, run_folder
from benchmarks.experiment.grid import SHIPPED, Grid, Row, load_grid
from benchmarks.experiment.tables import markdown
from benchmarks.speed.bench import plain_parser
from engine.errors import ConfigError, HermesError
from engine.files.atomic import write_file
from engine.files.lock import holding

CONFIG, LOG = "config.toml", "log.txt"


class Job(NamedTuple):
    """One `hermes run`."""

    row: Row
    seed: int
    folder: Path
    config: bytes

    @property
    def name(self) -> str:
        """What progress calls it."""
        return f"{self.row.name}, seed {self.seed}"

    @property
    def command(self) -> list[str]:
        """A base model is only measured."""
        given = ["--rounds", str(self.row.rounds), "--run", str(self.folder)]
        given += ["--config", str(self.folder / CONFIG)]
        return [sys.executable, "-m", "hermes_cli.main", "run", *given]


def options() -> argparse.ArgumentParser:
    """Which grid, which of its rows, and where to."""
    parser = plain_parser(__doc__)
    parser.add_argument("--grid", type=Path, default=SHIPPED, help="TOML file [the shipped grid]")
    parser.add_argument("--to", type=Path, default=Path("runs/experiment"))
    parser.add_argument("--rows", default="", help="names, with commas between [all]")
    parser.add_argument("--seeds", default="", help="of training, with commas between [all of each row]")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, each on a core of its own")
    parser.add_argument("--dry-run", action="store_true", help="print the runs; start nothing")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/experiment.json"))
    return parser


def planned(grid: Grid, root: Path, rows: str, seeds: str) -> list[Job]:
    """The runs that are asked for, the first seed of every row first.

    Raises:
        ConfigError: there is none.
    """
    try:
        wanted = {int(one) for one in seeds.split(",") if one.strip()}
    except ValueError as error:
        raise ConfigError(f"--seeds {seeds!r}: give numbers with commas between") from error
    jobs = [
        (place, Job(row, seed, run_folder(root, row, seed), grid.config(row, seed)))
        for row in grid.chosen(rows)
        for place, seed in enumerate(row.runs)
        if seed in wanted or not wanted or not row.rounds
    ]
    if not jobs:
        raise ConfigError(f"--seeds {seeds}: no row has one of them")
    return [job for _, job in sorted(jobs, key=lambda one: one[0])]


def pool_on(jobs: int) -> ThreadPoolExecutor:
    """A thread a core, pinned to it, as the processes are that it starts: results do not depend on --jobs.

    Raises:
        ConfigError: there are fewer cores.
    """
    cores = sorted(os.sched_getaffinity(0), reverse=True)
    if not 1 <= jobs <= len(cores):
        raise ConfigError(f"--jobs {jobs}: each job has a core, and this process may use {len(cores)}")
    return ThreadPoolExecutor(jobs, initializer=lambda: os.sched_setaffinity(0, {cores.pop()}))


def run_job(job: Job) -> str:
    """Runs a job to its end; returns why it failed, or nothing."""
    config, log = job.folder / CONFIG, job.folder / LOG
    if config.is_file() and config.read_bytes() != job.config:
        return f"{job.folder}: was run under other settings; remove it or choose another --to"
    write_file(config, job.config)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "110"}
    with log.open("ab") as out:
        done = subprocess.run(
            job.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, check=False
        )
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return ["it left no line", *said][-1] if done.returncode else ""


def run(given: argparse.Namespace) -> dict[str, str]:
    """Does what the options ask for; returns why jobs failed, by their names.

    Raises:
        HermesError: the grid cannot be run.
    """
    grid, root = load_grid(given.grid), given.to.resolve()
    jobs = planned(grid, root, given.rows, given.seeds)
    pool = pool_on(given.jobs)
    if given.dry_run:
        print(*(f"{job.name}: hermes {' '.join(job.command[3:])}" for job in jobs), sep="\n")
        return {}
    failures: dict[str, str] = {}
    with holding(root / "lock", f"{root}: another process runs this experiment; wait for it"):
        try:
            started = {pool.submit(run_job, job): job for job in jobs}
            for number, future in enumerate(as_completed(started), 1):
                job, reason = started[future], future.result()
                if reason:
                    failures[job.name] = reason
                print(f"{number} of {len(jobs)}: {job.name}: {reason or 'done'}", flush=True)
                results = collect(grid, root)
                write_file(given.results, msgspec.json.format(msgspec.json.encode(results)))
        finally:
            pool.shutdown(cancel_futures=True)
    print(markdown(results))
    print(f"written to {given.results}")
    return failures


def main() -> None:
    """One line for what cannot be done; status 1 where a run failed."""
    try:
        failures = run(options().parse_args())
    except HermesError as error:
        sys.exit(f"experiment: {error}")
    except KeyboardInterrupt:
        print("experiment: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    for name, reason in failures.items():
        print(f"experiment: {name} failed: {reason}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
