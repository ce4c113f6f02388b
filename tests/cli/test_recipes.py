"""Recipes: settings that belong together, under what a command is told beside them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from engine.errors import ConfigError
from hermes_cli.main import app
from hermes_cli.recipes import DEFAULT, PAPER, RECIPES, recipe
from hermes_cli.run.folder import asked
from hermes_cli.settings import (
    Tree,
    load_settings,
    parse_assignment,
    read_toml,
    settle,
    store_settings,
    stored_settings,
)


def test_the_papers_recipe_is_what_the_paper_says() -> None:
    settings = settle(PAPER)
    train = settings.train
    assert (train.beta, train.learning_rate, train.weight_decay) == (0.2, 2e-5, 0.01)
    assert (train.batch_size, train.steps, train.schedule, train.objective) == (4, 3000, "cosine", "sum")
    assert (train.caption_sft_weight, train.image_sft_weight) == (0.0, 0.0)
    assert (train.caption_weight, train.image_weight, train.weight_averaging) == (1.0, 1.0, 1.0)
    assert (settings.curate.threshold, settings.curate.fresh_prompts) == (0.6, False)
    assert settings.reference.policy == "previous"


def test_what_is_given_beside_a_recipe_wins_and_the_run_keeps_it(tmp_path: Path) -> None:
    stored, toml = tmp_path / "run.json", tmp_path / "more.toml"
    toml.write_text("[train]\nbatch_size = 8\nbeta = 0.3\n")
    given = {"curate": {"n": 3}}
    layers = read_toml(toml), parse_assignment("train.beta=0.4"), given
    folder, found = asked(tmp_path, *layers, recipe="paper")
    assert not stored.exists()
    folder.keep(found)
    assert (found.train.steps, found.train.batch_size, found.train.beta, found.curate.n) == (3000, 8, 0.4, 3)
    assert stored_settings(stored) == found
    assert asked(tmp_path)[1] == found


def test_recipes_settle_the_same_settings_so_that_either_takes_the_other_back(tmp_path: Path) -> None:
    def leaves(tree: Tree, place: str = "") -> set[str]:
        return {
            leaf
            for name, value in tree.items()
            for leaf in (leaves(value, f"{place}{name}.") if isinstance(value, dict) else {place + name})
        }

    assert leaves(PAPER) == leaves(DEFAULT)
    stored = tmp_path / "run.json"
    store_settings(stored, load_settings(stored, PAPER, {"train": {"seed": 5}, "curate": {"n": 3}}))
    found = load_settings(stored, recipe("default"))
    assert (found.train.seed, found.curate.n) == (5, 3)
    assert msgspec.structs.replace(found.train, seed=0) == settle({**DEFAULT, "seed": 0}).training
    assert found.curate.fresh_prompts


def test_a_new_run_begins_with_the_default_and_another_keeps_its_own() -> None:
    assert recipe(None, new=True) == recipe("", new=True) == DEFAULT
    assert recipe(None) == {}
    assert recipe("paper", new=True) == PAPER
    with pytest.raises(ConfigError, match="--recipe papre: there is no such recipe, only default, paper"):
        recipe("papre")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_planned_run_takes_a_recipe(tmp_path: Path, name: str) -> None:
    run = ["run", "--run", str(tmp_path), "--recipe", name, "--limit", "4", "--dry-run"]
    result = CliRunner().invoke(app, run, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    train = settle(RECIPES[name]).train
    most = " at most (32 epochs)" if name == "default" else ""
    assert f"train: {train.steps} steps{most} of {train.batch_size}" in result.output
