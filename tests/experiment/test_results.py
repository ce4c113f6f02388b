"""Results from runs made by hand: what is in them, what is missing, and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from made_run import measured, save_evaluation
from PIL import Image

from benchmarks.experiment.collect import collect, run_folder
from benchmarks.experiment.grid import Grid, load_grid
from benchmarks.experiment.plots import draw_all
from benchmarks.experiment.results import Results
from benchmarks.experiment.statistics import paired
from benchmarks.experiment.tables import BEGIN, END, load_results, markdown, put_between
from engine.errors import DataError

ROOT = Path(__file__).parents[2]
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


def fill(grid: Grid, root: Path, name: str, seed: int, rounds: int) -> None:
    """Measurements of a run: each round answers one more right about generated images, seed 1 yet more."""
    (row,) = grid.chosen(name)
    for number in range(rounds + 1):
        items = [(3, 2 + bool(number) * (number + seed * (place % 2)), 4) for place in range(20)]
        found = msgspec.structs.replace(measured(f"{seed}-{number}", items), config=grid.settled(row).eval)
        save_evaluation(run_folder(root, row, seed), number, found)


@pytest.fixture
def half_done(tmp_path: Path) -> tuple[Grid, Path, Results]:
    """The base, the default row to its end, and a seed of the other."""
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    grid, root = load_grid(path), tmp_path / "to"
    fill(grid, root, "base", 0, 0)
    for seed in (0, 1):
        fill(grid, root, "sum", seed, 2)
    fill(grid, root, "und", 0, 1)
    return grid, root, collect(grid, root)


def test_gains_are_over_the_base(half_done: tuple[Grid, Path, Results]) -> None:
    *_, results = half_done
    rows = {row.name: row for row in results.rows}
    first, last = rows["sum"].rounds[1:]
    # Of 8 answers an item: seed 0 gains 1 a round, seed 1 half an answer more on average.
    assert first.gen_gain == pytest.approx((1 + 1.5) / 2 / 8)
    assert last.gen_gain == pytest.approx((2 + 2.5) / 2 / 8)
    assert first.und_gain == 0
    base = rows["base"].rounds[0]
    assert base.gap == pytest.approx(3 / 4 - 2 / 8)
    assert last.gap_cut == pytest.approx(1 - last.gap / base.gap, abs=1e-5)
    assert last.gap_cut_ci is not None
    assert last.gap_cut_ci[0] < last.gap_cut < last.gap_cut_ci[1]
    assert {seed: one.gen for seed, one in last.by_seed.items()} == {"0": 4 / 8, "1": 4.5 / 8}


def test_rows_that_are_not_complete_are_marked(
    half_done: tuple[Grid, Path, Results],
) -> None:
    grid, root, results = half_done
    rows = {row.name: row for row in results.rows}
    assert [rows[name].complete for name in ("base", "sum", "und")] == [True, True, False]
    assert rows["und"].rounds[1].seeds == (0,)
    fill(grid, root, "und", 1, 1)
    complete = collect(grid, root).rows[2]
    assert (complete.complete, complete.rounds[1].seeds) == (True, (0, 1))


def test_a_measurement_under_other_settings_does_not_count_and_a_damaged_one_is_named(
    half_done: tuple[Grid, Path, Results], tmp_path: Path
) -> None:
    grid, root, _ = half_done
    path = run_folder(root, grid.default, 0) / "round-2/eval.json"
    other = msgspec.structs.replace(grid.settled(grid.default).eval, seed=9)
    found = measured("0-2", [(3, 4, 4)] * 20)
    save_evaluation(path.parents[1], 2, msgspec.structs.replace(found, config=other))
    assert collect(grid, root).rows[1].rounds[2].seeds == (1,)
    path.write_text("{")
    with pytest.raises(DataError, match=r"eval\.json was changed after it was written"):
        collect(grid, root)


def test_results_read_back(half_done: tuple[Grid, Path, Results]) -> None:
    *_, results = half_done
    assert results.split == "evaluation"
    assert msgspec.json.decode(msgspec.json.encode(results), type=Results) == results
    assert "NaN" not in json.dumps(msgspec.to_builtins(results))


def test_tables_have_a_line_a_round_and_go_between_the_markers(half_done: tuple[Grid, Path, Results]) -> None:
    *_, results = half_done
    text = markdown(results)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + 1 + 2 + 1
    assert "| **sum** | 2 | 0.750 | 0.531 |" in text
    assert "1 (1 of 2 seeds)" in text
    page = put_between(f"head\n{BEGIN}\nold\n{END}\ntail\n", text)
    assert page.startswith("head\n")
    assert page.endswith("tail\n")
    assert "old" not in page
    assert put_between(page, text) == page
    for broken in ("none", f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"):
        with pytest.raises(DataError, match="has not one"):
            put_between(broken, text)


def test_the_documented_table_is_that_of_the_committed_results() -> None:
    results = load_results(ROOT / "benchmarks/results/experiment.json")
    text = (ROOT / "docs/results.md").read_text()
    assert put_between(text, markdown(results)) == text


def test_pictures_are_drawn_of_what_there_is(half_done: tuple[Grid, Path, Results], tmp_path: Path) -> None:
    *_, results = half_done
    paths = draw_all(results, tmp_path / "images")
    assert [path.name for path in paths] == ["experiment-gains.png", "experiment-gap.png"]
    for path in paths:
        with Image.open(path) as picture:
            # Whole inches of a phone's width: narrower than a page, so that its text keeps its size.
            assert 700 < picture.width < 1000
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    one_round = [msgspec.structs.replace(row, rounds=row.rounds[:2]) for row in results.rows]
    short = msgspec.structs.replace(results, rows=tuple(one_round))
    assert [path.name for path in draw_all(short, tmp_path / "short", "levers")] == ["levers-gains.png"]
    nothing = msgspec.structs.replace(results, rows=results.rows[:1])
    assert draw_all(nothing, tmp_path / "none") == []


def test_measurements_are_compared_on_the_items_that_all_have() -> None:
    first = measured("a", [(1, 1, 2), (2, 2, 2), (0, 3, 2), (1, 1, 1)])
    second = measured("b", [(2, 2, 2), (2, 2, 3), (1, 3, 2)])
    one, other = paired([[first], [second]])
    assert one.und.shape == other.gen.shape == (1, 2)
    assert one.und.mean() == pytest.approx(1 / 4)
    both, alone = paired([[first, first], [second]])
    assert (both.und.shape, alone.und.shape) == ((2, 2), (1, 2))
    with pytest.raises(DataError, match="fewer than two items"):
        paired([[first], [measured("c", [(1, 1, 2)])]])
