"""The recipe that `hermes run` begins with is the one whose results are reported as the default's."""

from __future__ import annotations

import math

import msgspec
import pytest

from benchmarks.experiment.grid import SHIPPED, load_grid
from engine.checkpoints.weights import load_config
from engine.files.layout import resolve_model
from hermes_cli.recipes import DEFAULT
from hermes_cli.settings import settle
from train.config import TrainConfig

GRID, LEVERS = load_grid(SHIPPED), load_grid(SHIPPED.with_name("levers.toml"))
WEIGHTS = ("caption_weight", "image_weight")


@pytest.mark.parametrize(
    ("row", "lever", "without", "free"),
    [
        ("long", "long-fifth", "long-none", (*WEIGHTS, "weight_averaging")),
        ("scale", "scale", "scale-likelihood", (*WEIGHTS, "dpo_every_n_epochs")),
    ],
)
def test_a_lever_is_its_row_and_the_same_without_pairs(
    row: str, lever: str, without: str, free: tuple[str, ...]
) -> None:
    wanted = GRID.settled(GRID.chosen(row)[0])
    trials = [LEVERS.settled(LEVERS.chosen(name)[0]) for name in (lever, without)]
    for trial in trials:
        fixed = {name: getattr(wanted.train, name) for name in free}
        assert msgspec.structs.replace(trial.train, **fixed) == wanted.train
        assert trial.curate == wanted.curate
    assert len({trial.train.weight_averaging for trial in trials}) == 1
    assert trials[1].train.image_weight == 1e-9


def test_the_default_row_is_the_default_recipe_at_the_models_width() -> None:
    row, shipped = settle(GRID.tree(GRID.default)), settle(DEFAULT)
    recipe = shipped.train.for_width(load_config(resolve_model("")).hidden_size)
    assert math.isclose(recipe.learning_rate, row.train.learning_rate, rel_tol=1e-6)
    same: TrainConfig = msgspec.structs.replace(recipe, learning_rate=row.train.learning_rate)
    assert same == row.train
    for name in DEFAULT["curate"]:
        assert getattr(shipped.curate, name) == getattr(row.curate, name)
    assert shipped.reference == row.reference
