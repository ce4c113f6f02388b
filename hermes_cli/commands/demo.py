"""`hermes demo`: the smallest run that shows every part at work."""

from __future__ import annotations

from pathlib import Path

from hermes_cli.recipes import DEFAULT
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import Tree, load_settings
from hermes_cli.stages.self_play import run_rounds
from hermes_cli.view import say

DEMO: Tree = {
    "curate": {"n": 8, "limit": 48},
    "train": {"steps": 10},
    "eval": {"limit": 150},
}


def run_demo(run: Path) -> None:
    """One round with everything real: vLLM sampling, Zarr references, ZeRO-3, hot swap."""
    settings = load_settings(run / "run.json", DEFAULT, DEMO)
    folder = RunFolder(run, settings.model)
    run_rounds(folder, settings, 1)
    say(f"candidate sheet: {folder.curation(1) / 'sheet.png'}")
    say("One round on 48 items shows the machinery; it does not promise a smaller gap.")
