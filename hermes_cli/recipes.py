"""Named recipes: settings that belong together, laid under what a command is told beside them."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import ConfigError
from hermes_cli.settings import Tree, merge

DEFAULT: Tree = {
    "curate": {"rules": "paper", "tie_break": "none", "fresh_prompts": True},
    "reference": {"policy": "previous"},
    "train": {
        "objective": "sum",
        "beta": 2.0,
        "caption_weight": 0.01,
        "image_weight": 0.1,
        "pairs_every": 8,
        "clip": 20.0,
        "learning_rate": 3.90625e-5,
        "scale_rate": True,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "batch": 32,
        "steps": 2000,
        "most_visits": 32.0,
        "interpolation": 0.55,
        "real_caption_anchor": 0.0,
        "real_image_anchor": 20.0,
        "text_dropout": 0.1,
    },
}
"""What a new run begins with: the recipe that the experiment measures over two rounds (docs/method.md). Its
rate is the experiment's, 5e-4 at a width of 160, scaled to 2,048."""

PAPER: Tree = merge(
    DEFAULT,
    {
        "curate": {"fresh_prompts": False},
        "train": {
            "beta": 0.2,
            "caption_weight": 1.0,
            "image_weight": 1.0,
            "pairs_every": 1,
            "clip": 1.0,
            "learning_rate": 2e-5,
            "scale_rate": False,
            "batch": 4,
            "steps": 3000,
            "most_visits": 0.0,
            "interpolation": 1.0,
            "real_image_anchor": 0.0,
            "text_dropout": 0.0,
        },
    },
)
"""HermesFlow (arXiv 2502.12148, section 4.1) with the released code's loss; Eq. 6 as printed is
`train.objective=product`. How many candidates, and how they are painted, is a matter of the model."""

RECIPES: Mapping[str, Tree] = {"default": DEFAULT, "paper": PAPER}


def recipe(name: str | None, new: bool = False) -> Tree:
    """The settings of a recipe; without a name the default's for a new run, and none for another.

    Raises:
        ConfigError: there is no such recipe.
    """
    if not name:
        return DEFAULT if new else {}
    if name not in RECIPES:
        raise ConfigError(f"--recipe {name}: there is no such recipe, only {', '.join(RECIPES)}")
    return RECIPES[name]
