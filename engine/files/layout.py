"""Where checkpoints lie: the name of their weights, and the folder of the model that ships here."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = "model.safetensors"
CLIP_FOLDER = "clip"
EMBEDDED_MODEL = Path(__file__).parents[1] / "embedded" / "showo-shapes"


def resolve_model(name: str) -> Path:
    """The folder of a checkpoint; an empty name is the embedded model."""
    return Path(name) if name else EMBEDDED_MODEL
