"""A curation of fewer candidates out of a wider one is the curation itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.experiment.cells import Curation
from benchmarks.experiment.grid import SHIPPED, chosen_seeds, load_grid
from benchmarks.experiment.narrowing import contains, narrow_curation
from benchmarks.experiment.planning import plan
from benchmarks.experiment.settings import CellSettings, Tree, as_toml, settle
from engine.errors import StaleError


def settings_of(**curate: object) -> CellSettings:
    tree: Tree = {"curate": {"limit": 5, "chunk": 3, "image": {"steps": 3}, "similarity": "minilm", **curate}}
    return settle(tree, "here")


def curated(run: Path, settings: CellSettings) -> str:
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.toml").write_bytes(as_toml(settings))
    command = [sys.executable, "-m", "hermes_cli.main", "curate", "--run", str(run)]
    done = subprocess.run(
        [*command, "--config", str(run / "config.toml")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_curation_holds_those_of_fewer_candidates_and_items_alone() -> None:
    wide = settings_of(n=8)
    assert contains(wide, settings_of(n=8))
    assert contains(wide, settings_of(n=2, limit=3, threshold=0.5, chunk=1))
    for other in ({"n": 9}, {"n": 2, "limit": 6}, {"n": 2, "limit": 0}, {"n": 2, "select": 3}):
        assert not contains(wide, settings_of(**other))
    assert not contains(wide, settings_of(n=2, answer={"mode": "likelihood"}))
    assert not contains(wide, settings_of(n=2, caption_plan="official"))


def test_the_shipped_grids_curations_of_as_many_prompts_come_of_the_widest(tmp_path: Path) -> None:
    grid = load_grid(SHIPPED)
    like = grid.settled(grid.find("sum"))
    rows = [
        row
        for row, one in ((row, grid.settled(row)) for row in grid.row)
        if (one.model, one.curate.limit) == (like.model, like.curate.limit)
    ]
    found = plan(tmp_path, grid, [(row, chosen_seeds(row, ())) for row in rows], False)
    curations = [one for one in found.tasks if isinstance(one, Curation)]
    assert [one.settings.curate.n for one in curations if one.wider is None] == [16]
    assert curations[0].settings.curate.n == 16
    assert {one.wider for one in curations[1:]} == {curations[0].folder}


@pytest.mark.slow
def test_the_first_candidates_of_a_wider_curation_are_the_curation(tmp_path: Path) -> None:
    wide, narrow = settings_of(n=5), settings_of(n=2, limit=4)
    curated(tmp_path / "wide", wide)
    assert "starting the engine" in curated(tmp_path / "narrow", narrow)
    narrow_curation(tmp_path / "wide", wide, tmp_path / "taken", narrow)
    assert "starting the engine" not in curated(tmp_path / "taken", narrow)
    for name in ("pairs.jsonl", "origin.json", "candidates/000000.open.jsonl", "candidates/000000.jsonl"):
        ours, theirs = (tmp_path / one / "round-1/curate" / name for one in ("taken", "narrow"))
        assert ours.is_file() == theirs.is_file()
        if ours.is_file() and not name.endswith("open.jsonl"):
            assert ours.read_bytes() == theirs.read_bytes()
    with pytest.raises(StaleError, match="other settings"):
        narrow_curation(tmp_path / "wide", settings_of(n=5, threshold=0.5), tmp_path / "other", narrow)
