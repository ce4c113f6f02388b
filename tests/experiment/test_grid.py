"""The declared grid: what it refuses, and what its rows share."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from benchmarks.experiment import settings
from benchmarks.experiment.cells import Base, Cell, Curation, Final
from benchmarks.experiment.grid import SHIPPED, Grid, chosen_rows, chosen_seeds, load_grid
from benchmarks.experiment.planning import Plan, plan
from benchmarks.experiment.settings import FIRST, RETIRED, CellSettings, as_toml, digest, merge, settle
from engine.errors import ConfigError
from hermes_cli.settings import RunSettings

DEFAULT = '[[row]]\nname = "sum"\ntitle = "sum"\ndefault = true\n'


def grid_of(tmp_path: Path, text: str) -> Grid:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return load_grid(path)


def planned(grid: Grid, root: Path, final: bool = False, rows: str = "") -> Plan:
    cells = [(row, chosen_seeds(row, ())) for row in chosen_rows(grid, rows)]
    return plan(root, grid, cells, final)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[row]\n", "grid.toml"),
        (DEFAULT + "colour = 1\n", "colour"),
        (DEFAULT + "[defaults.train]\nstep = 3\n", "step"),
        (DEFAULT + "[defaults.train]\nsteps = 0\n", "row sum: train: steps is 0"),
        (DEFAULT + "settings.train.objective = 'best'\n", "objective"),
        (DEFAULT + "settings.train.seed = 4\n", "given by seeds"),
        (DEFAULT + "seeds = [1, 1]\n", "one twice"),
        (DEFAULT + "seeds = []\n", "no seeds"),
        (DEFAULT + "rounds = -1\n", "rounds is -1"),
        (DEFAULT + DEFAULT.replace("default = true\n", ""), "two rows are called 'sum'"),
        (DEFAULT.replace("default = true\n", ""), "0 rows have default"),
        (DEFAULT.replace('"sum"', '"../sum"'), "a name has"),
        (DEFAULT + "[defaults.eval]\nsplit = 'evaluation'\n", "--final"),
        (DEFAULT + "[final]\nlimit = 0\n", "final: eval.limit is 0"),
        (
            DEFAULT + "[[row]]\nname = 'more'\ntitle = ''\nsettings.eval.limit = 9\n",
            "row more: eval is a matter of the defaults",
        ),
        (DEFAULT + "shares = 'none'\n", "no row 'none'"),
        (
            DEFAULT + "[[row]]\nname = 'n2'\ntitle = ''\nshares = 'sum'\nsettings.curate.n = 2\n",
            "settings of it differ",
        ),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grid_of(tmp_path, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value).strip()
    assert str(caught.value).startswith("--grid")


def test_the_shipped_grid_has_the_rows_of_the_papers_tables() -> None:
    grid = load_grid(SHIPPED)
    found = {row.name: grid.settled(row) for row in grid.row}
    objectives = {one.train.objective for one in found.values()}
    assert {"und", "gen", "sum", "product", "softmin"} <= objectives
    assert {found[f"n{n}"].curate.n for n in (2, 4, 8, 16)} == {2, 4, 8, 16}
    assert found["product-after-sum"].train.sum_steps
    assert grid.find("base").rounds == 0
    assert grid.default.rounds == 2
    assert {one.eval.split for one in found.values()} == {"validation"}
    assert {grid.final_eval(row).eval.split for row in grid.row} == {"evaluation"}


def test_all_rows_that_curate_alike_share_one_curation_and_one_base(tmp_path: Path) -> None:
    grid = load_grid(SHIPPED)
    tasks = planned(grid, tmp_path).tasks
    models = {grid.settled(row).model for row in grid.row}
    assert models == {"", "runs/careless/checkpoint", "runs/careful/checkpoint"}
    assert len([one for one in tasks if isinstance(one, Base)]) == len(models)
    curations = [one.settings for one in tasks if isinstance(one, Curation)]
    likelier = [one.curate.n for one in curations if one.model and one.curate.tie_break == "likelihood"]
    assert sorted(likelier) == [2, 4, 8, 16]
    # The recipes' rows take no ties; two of them have more prompts.
    recipes = [one.curate for one in curations if one.model and one.curate.tie_break == "none"]
    assert sorted((one.n, one.limit) for one in recipes) == [(2, 1024), (2, 3072), (8, 320)]
    assert [one.curate.n for one in curations if not one.model] == [8]
    cells = {one.name: one for one in tasks if isinstance(one, Cell)}
    assert cells["und, seed 0"].curation == cells["sum+n8, seed 1"].curation
    # Fresh prompts come from round 2 on.
    assert cells["real, seed 0"].curation == cells["anchored, seed 1"].curation
    assert cells["und, seed 0"].curation != cells["n2, seed 0"].curation
    assert cells["und, seed 0"].base == cells["n2, seed 0"].base
    assert cells["und, seed 2"].folder in cells["gen, seed 2"].siblings
    assert not {cells["und, seed 1"].folder, cells["n2, seed 2"].folder} & {*cells["gen, seed 2"].siblings}


def test_rows_of_the_same_settings_are_one_cell_of_the_most_rounds(tmp_path: Path) -> None:
    grid = load_grid(SHIPPED)
    found = planned(grid, tmp_path)
    assert found.measured["n8"] == found.measured["sum"]
    task = found.measured["n8"][0][1]
    assert isinstance(task, Cell)
    assert (task.rows, task.rounds) == (("sum", "n8"), 3)


def test_every_task_comes_after_what_it_needs_and_the_first_seed_first(tmp_path: Path) -> None:
    tasks = planned(load_grid(SHIPPED), tmp_path, final=True).tasks
    places = {one.folder: place for place, one in enumerate(tasks)}
    for one in tasks:
        assert all(places[folder] < places[one.folder] for folder in one.needs)
    seeds = [one.seed for one in tasks if isinstance(one, Cell)]
    assert seeds == sorted(seeds)
    assert sum(isinstance(one, Final) for one in tasks) == len(seeds)


def test_other_settings_have_other_folders_and_means_do_not_matter(tmp_path: Path) -> None:
    def folders(more: str) -> set[Path]:
        return {one.folder for one in planned(grid_of(tmp_path, DEFAULT + more), tmp_path).tasks}

    plain = folders("")
    assert folders("[defaults.train]\nmicro_batch_size = 2\n[defaults.curate]\nchunk = 3\n") == plain
    assert not folders("[defaults.train]\nbeta = 0.3\n") >= plain
    assert len(folders("[defaults.eval]\nlimit = 7\n") & plain) == len(plain) - 1
    assert not folders("seed = 0\n[defaults]\nseed = 5\n".removeprefix("seed = 0\n")) & plain - {
        one for one in plain if "base" in one.name
    }


def test_the_file_of_settings_states_every_one_of_them(tmp_path: Path) -> None:
    given = {"curate": {"n": 3, "max_bad": "1%"}, "data": 'a "set" é', "train": {"seed": 7}}
    settings = settle(given, "here")
    assert settle(tomllib.loads(as_toml(settings).decode()), "there") == settings
    assert "train.lora_alpha" in as_toml(settings).decode()
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}


def test_rows_and_seeds_can_be_chosen(tmp_path: Path) -> None:
    grid = load_grid(SHIPPED)
    assert [row.name for row in chosen_rows(grid, "sum, und")] == ["und", "sum"]
    assert chosen_seeds(grid.find("sum"), (2, 9)) == (2,)
    assert chosen_seeds(grid.find("base"), ()) == ()
    with pytest.raises(ConfigError, match="no row 'nope'"):
        chosen_rows(grid, "nope")


def test_a_cell_has_every_table_of_a_runs_settings() -> None:
    """A table that `hermes run` gains must reach the cells, or a grid that names it would be refused."""
    assert set(CellSettings.__struct_fields__) == set(RunSettings.__struct_fields__)


def test_a_setting_that_is_new_leaves_old_measurements_valid_until_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = settle({"train": {"beta": 0.3}}, "here").training_basis
    assert set(before["train"]) <= FIRST | RETIRED.keys()
    monkeypatch.setattr(settings, "FIRST", FIRST - {"text_dropout", "image_margin"})
    plain = settle({}, "here")
    assert "text_dropout" not in plain.training_basis["train"]
    assert "image_margin" not in plain.curation_basis["curate"]
    used = settle({"train": {"text_dropout": 0.5}, "curate": {"image_margin": 0.1}}, "here")
    assert used.training_basis["train"]["text_dropout"] == 0.5
    assert used.curation_basis["curate"]["image_margin"] == 0.1


def test_the_shipped_grids_digests_are_those_of_the_kept_measurements() -> None:
    """They name folders: where one moves, what was measured under it is lost."""
    grid = load_grid(SHIPPED)
    found = {name: digest(grid.settled(grid.find(name)).training_basis) for name in ("gen", "product")}
    assert found == {"gen": "62f98c9e75f9", "product": "62b2a348e477"}


def test_who_samples_decides_a_curation_and_what_is_usual_leaves_its_digest() -> None:
    usual, named, paged = (
        digest(settle({"engine": engine}, "here").curation_basis)
        for engine in ({}, {"sampler": "branched"}, {"sampler": "paged"})
    )
    assert usual == named != paged
