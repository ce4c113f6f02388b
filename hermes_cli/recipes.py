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
        "dpo_every_n_epochs": 8,
        "max_grad_norm": 20.0,
        "learning_rate": 3.90625e-5,
        "mup_lr": True,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "batch_size": 32,
        "steps": 2000,
        "max_epochs": 32.0,
        "weight_averaging": 0.55,
        "caption_sft_weight": 0.0,
        "image_sft_weight": 20.0,
        "text_dropout": 0.1,
    },
}
"""What a new run begins with: the recipe that the experiment measures over two rounds (docs/results.md). Its
rate is the experiment's, 5e-4 at a width of 160, scaled to 2,048."""

PAPER: Tree = merge(
    DEFAULT,
    {
        "curate": {"fresh_prompts": False},
        "train": {
            "beta": 0.2,
            "caption_weight": 1.0,
            "image_weight": 1.0,
            "dpo_every_n_epochs": 1,
            "max_grad_norm": 1.0,
            "learning_rate": 2e-5,
            "mup_lr": False,
            "batch_size": 4,
            "steps": 3000,
            "max_epochs": 0.0,
            "weight_averaging": 1.0,
            "image_sft_weight": 0.0,
            "text_dropout": 0.0,
        },
    },
)
"""HermesFlow (arXiv 2502.12148, section 4.1) with the released code's loss; Eq. 6 as printed is
`train.objective=product`. How many candidates, and how they are generated, is a matter of the model."""

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
