"""The declared grid: what is refused, what the shipped one holds, which runs it plans."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks.experiment.__main__ import Job, planned, run_job
from benchmarks.experiment.grid import SHIPPED, Grid, load_grid
from engine.errors import ConfigError
from hermes_cli.settings import merge, settle

DEFAULT = '[[row]]\nname = "sum"\ntitle = "sum"\ndefault = true\n'


def grid_of(tmp_path: Path, text: str) -> Grid:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return load_grid(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("row = [", "Invalid value"),
        (DEFAULT + "colour = 3\n", "colour"),
        (
            DEFAULT + "settings.train.bata = 3\n",
            "row sum: settings: there is no setting train.bata; did you mean",
        ),
        (DEFAULT + "settings.train.beta = -3.0\n", "row sum: "),
        (DEFAULT + "settings.train.seed = 4\n", "given by seeds"),
        (DEFAULT + "seeds = [1, 1]\n", "one twice"),
        (DEFAULT + "seeds = []\n", "no seeds"),
        (DEFAULT + "rounds = -1\n", "rounds is -1"),
        (DEFAULT + DEFAULT.replace("default = true\n", ""), "two rows are called 'sum'"),
        (DEFAULT.replace("default = true\n", ""), "0 rows have default"),
        (DEFAULT.replace('"sum"', '"../sum"'), "a name has"),
        (DEFAULT + "[defaults.eval]\nlimit = 0\n", "eval.limit is 0"),
        (
            DEFAULT + "[[row]]\nname = 'more'\ntitle = ''\nsettings.eval.limit = 9\n",
            "row more: eval is a matter of the defaults",
        ),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grid_of(tmp_path, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value).strip()
    assert str(caught.value).startswith("--grid")


def test_the_shipped_grids_can_be_run_and_have_the_rows_of_the_papers_tables() -> None:
    grid, levers = load_grid(SHIPPED), load_grid(SHIPPED.with_name("levers.toml"))
    found = {row.name: grid.settled(row) for row in grid.row}
    objectives = {one.train.objective for one in found.values()}
    assert {"und", "gen", "sum", "product", "softmin"} <= objectives
    assert {found[f"n{n}"].curate.n for n in (2, 4, 8, 16)} == {2, 4, 8, 16}
    assert found["product-after-sum"].train.sum_steps
    assert grid.default.rounds == 2
    assert {one.eval.split for one in found.values()} == {"evaluation"}
    assert {levers.settled(row).eval.split for row in levers.row} == {"validation"}


def test_a_runs_file_states_every_setting_of_its_row_and_seed(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, DEFAULT + 'settings = { curate = { max_bad = "1%" }, data = \'a "set" é\' }\n')
    found = tomllib.loads(grid.config(grid.default, 7).decode())
    settings = settle(found)
    assert (settings.train.seed, settings.curate.max_bad, settings.data) == (7, "1%", 'a "set" é')
    assert settings == settle(merge(grid.tree(grid.default), {"train": {"seed": 7}}))
    assert {"lora_alpha", "learning_rate", "beta"} <= found["train"].keys()


def test_rows_and_seeds_can_be_chosen_and_the_first_seed_of_every_row_comes_first(tmp_path: Path) -> None:
    grid = load_grid(SHIPPED)

    def names(rows: str, seeds: str) -> list[str]:
        return [job.name for job in planned(grid, tmp_path, rows, seeds)]

    assert names("sum, und", "2") == ["und, seed 2", "sum, seed 2"]
    assert names("base,sum", "0,1") == ["base, seed 0", "sum, seed 0", "sum, seed 1"]
    everything = planned(grid, tmp_path, "", "")
    assert [job.seed for job in everything] == sorted(job.seed for job in everything)
    assert len({job.folder for job in everything}) == len(everything)
    with pytest.raises(ConfigError, match="no row 'nope'"):
        names("nope", "")
    with pytest.raises(ConfigError, match="no row has one"):
        names("sum", "9")
    with pytest.raises(ConfigError, match="give numbers"):
        names("sum", "x")


class Failing(Job):
    """Fails, instead of `hermes run`."""

    @property
    def command(self) -> list[str]:
        script = "import sys; print('begun'); sys.exit(f'why {sys.argv[1]}\\n')"
        return [sys.executable, "-c", script, self.row.title]


def test_a_failed_run_is_told_by_its_last_line_and_other_settings_do_not_touch_its_folder(
    tmp_path: Path,
) -> None:
    grid = grid_of(tmp_path, DEFAULT)
    job = Failing(grid.default, 0, tmp_path / "run", grid.config(grid.default, 0))
    assert run_job(job) == "why sum"
    other = job._replace(config=grid.config(grid.default, 1))
    assert "was run under other settings; remove it" in run_job(other)
    assert (tmp_path / "run/config.toml").read_bytes() == job.config
