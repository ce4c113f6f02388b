"""The embedded model's card: it describes the weights that ship, and they pass its gates."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engine.checkpoints.weights import fingerprint
from engine.files.layout import EMBEDDED_MODEL
from engine.records import ImageSettings
from hermes_cli.commands.card import gate, read_card, write_card
from hermes_cli.commands.pretrain import PretrainPlan

MIB = 2**20


def test_the_shipped_model_passes_its_gates_by_its_own_card() -> None:
    card = read_card(EMBEDDED_MODEL)
    assert gate(card.evaluation) == card.problems == ()
    assert card.evaluation.items >= 300
    assert set(card.evaluation.by_kind) == {"existence", "shape", "color", "count", "relation"}
    assert set(card.evaluation.by_objects) == {"1", "2", "3", "4"}
    assert card.evaluation.judge == "pixel oracle"


def test_the_card_describes_the_weights_and_the_image_generation_that_ship() -> None:
    card = read_card(EMBEDDED_MODEL)
    assert card.evaluation.fingerprint == fingerprint(EMBEDDED_MODEL)
    best = max(card.trials, key=lambda trial: trial.gen)
    assert card.evaluation.config.image == ImageSettings() == ImageSettings(guidance=best.guidance)
    assert sum(path.stat().st_size for path in EMBEDDED_MODEL.rglob("*") if path.is_file()) <= 16 * MIB


def test_the_readme_beside_the_weights_says_what_the_card_does(tmp_path: Path) -> None:
    card = read_card(EMBEDDED_MODEL)
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card
    assert (tmp_path / "README.md").read_bytes() == (EMBEDDED_MODEL / "README.md").read_bytes()


def test_the_shipped_plan_is_the_default_plan() -> None:
    stored = (EMBEDDED_MODEL / "plan.json").read_bytes()
    assert msgspec.json.decode(stored, type=PretrainPlan) == PretrainPlan()
