"""Named recipes: settings that belong together, laid under what a command is told beside them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.errors import ConfigError
from hermes_cli.settings import RunSettings, Tree

PAPER: Tree = {
    "curate": {"rules": "paper", "tie_break": "none", "fresh_prompts": False},
    "reference": {"policy": "previous"},
    "train": {
        "objective": "sum",
        "beta": 0.2,
        "learning_rate": 2e-5,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "batch": 4,
        "steps": 3000,
        "caption_anchor": 0.0,
        "image_anchor": 0.0,
        "real_caption_anchor": 0.0,
        "real_image_anchor": 0.0,
        "image_normalise": False,
        "text_dropout": 0.0,
        "label_smoothing": 0.0,
    },
}
"""HermesFlow (arXiv 2502.12148, section 4.1) with the released code's loss; Eq. 6 as printed is
`train.objective=product`. How many candidates, and how they are painted, is a matter of the model."""


def _defaults_of(tree: Tree, defaults: Tree) -> Tree:
    """The default of every setting in a tree."""
    return {
        name: _defaults_of(value, defaults[name]) if isinstance(value, dict) else defaults[name]
        for name, value in tree.items()
    }


RECIPES: Mapping[str, Tree] = {
    "default": _defaults_of(PAPER, msgspec.to_builtins(RunSettings())),
    "paper": PAPER,
}
"""`default` takes back what `paper` has set."""


def recipe(name: str) -> Tree:
    """The settings of a recipe; none for an empty name.

    Raises:
        ConfigError: there is no such recipe.
    """
    if not name:
        return {}
    if name not in RECIPES:
        raise ConfigError(f"--recipe {name}: there is no such recipe, only {', '.join(RECIPES)}")
    return RECIPES[name]
