"""An experiment's folders made by hand: a small grid, its plan, and measurements in a task's folder."""

from __future__ import annotations

from pathlib import Path

import msgspec
from made_run import measured, save_curation, save_evaluation, save_training

from benchmarks.experiment.cells import Base, Cell, Final
from benchmarks.experiment.grid import Grid, chosen_seeds, load_grid
from benchmarks.experiment.planning import Plan, plan
from curate.evaluation.config import EvalConfig
from curate.evaluation.records import GapReport

GRID = """
[defaults.eval]
images = 2

[[row]]
name = "base"
title = "base model"
rounds = 0

[[row]]
name = "sum"
title = "sum"
rounds = 2
seeds = [0, 1]
default = true

[[row]]
name = "und"
title = "captions alone"
seeds = [0, 1]
settings.train.objective = "und"
"""


def grid_of(tmp_path: Path, text: str = GRID) -> Grid:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return load_grid(path)


def planned(grid: Grid, root: Path, final: bool = False) -> Plan:
    return plan(root, grid, [(row, chosen_seeds(row, ())) for row in grid.row], final)


def evaluation(weights: str, rows: list[tuple[int, int, int]], config: EvalConfig) -> GapReport:
    return msgspec.structs.replace(measured(weights, rows), config=config)


def fill(task: Base | Cell | Final, seed: int, rounds: int) -> None:
    """Measurements in a folder: each round answers one more right about generated images, seed 1 yet more."""
    for number in range(rounds + 1):
        rows = [(3, 2 + bool(number) * (number + seed * (place % 2)), 4) for place in range(20)]
        save_evaluation(task.folder, number, evaluation(f"{seed}-{number}", rows, task.settings.eval))
        if number:
            weights = task.folder / f"round-{number}/checkpoint/model.safetensors"
            if not isinstance(task, Final):
                weights.parent.mkdir(parents=True)
                weights.write_bytes(b"weights")
                save_curation(task.folder, number)
                save_training(task.folder, number)
