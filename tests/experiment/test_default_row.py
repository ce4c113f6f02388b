"""The recipe that `hermes run` begins with is the one whose results are reported as the default's."""

from __future__ import annotations

import math

import msgspec

from benchmarks.experiment.grid import SHIPPED, load_grid
from engine.checkpoints.weights import load_config
from engine.files.layout import resolve_model
from hermes_cli.recipes import DEFAULT
from hermes_cli.settings import settle
from train.config import TrainConfig


def test_the_levers_have_the_default_recipe_at_other_weights_of_its_pairs() -> None:
    grid, levers = load_grid(SHIPPED), load_grid(SHIPPED.with_name("levers.toml"))
    row = grid.settled(grid.default)
    trials = [levers.settled(levers.find(name)) for name in ("long-fifth", "long-none")]
    free = {name: getattr(row.train, name) for name in ("caption_weight", "image_weight", "weight_averaging")}
    for trial in trials:
        assert msgspec.structs.replace(trial.train, **free) == row.train
        assert trial.curate == row.curate
    assert len({trial.train.weight_averaging for trial in trials}) == 1
    assert [trial.train.image_weight for trial in trials] == [0.2, 1e-9]


def test_the_levers_have_the_row_of_1000_steps_and_the_same_without_its_pairs() -> None:
    grid, levers = load_grid(SHIPPED), load_grid(SHIPPED.with_name("levers.toml"))
    row = grid.settled(grid.find("scale"))
    lever, without = (levers.settled(levers.find(name)) for name in ("scale", "scale-likelihood"))
    assert (lever.train, lever.curate) == (row.train, row.curate)
    pairs = {
        name: getattr(lever.train, name) for name in ("dpo_every_n_epochs", "caption_weight", "image_weight")
    }
    assert msgspec.structs.replace(without.train, **pairs) == lever.train
    assert without.curate == lever.curate


def test_the_default_row_is_the_default_recipe_at_the_models_width() -> None:
    grid = load_grid(SHIPPED)
    row, shipped = grid.settled(grid.default), settle(DEFAULT)
    recipe = shipped.train.for_width(load_config(resolve_model("")).hidden_size)
    assert math.isclose(recipe.learning_rate, row.train.learning_rate, rel_tol=1e-6)
    same: TrainConfig = msgspec.structs.replace(recipe, learning_rate=row.train.learning_rate)
    assert same == row.train
    for name in DEFAULT["curate"]:
        assert getattr(shipped.curate, name) == getattr(row.curate, name)
    assert shipped.reference.policy == row.reference.get("policy", "previous")
