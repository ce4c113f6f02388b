"""The vision tower of an official CLIP folder, e.g. openai/clip-vit-large-patch14-336, in and out.

The folder may hold all of CLIP, text included; only the vision tower is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, CLIPVisionModel

from engine.errors import CheckpointError
from engine.files.layout import WEIGHTS
from engine.files.tensors import check_tensors, layout_of, save_tensors
from engine.models.clip_tower import DEVIATION, MEAN, PREFIX, ClipTower
from engine.official.tensor_files import open_tensors

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "projection_dim",
)
"""What decides the tower; published files hold much else that transformers of their day wrote."""


def read_clip(folder: Path) -> ClipTower:
    """The vision tower of a CLIP folder.

    Raises:
        CheckpointError: another model, missing or broken files, or tensors that do not fit.
    """
    path = folder / "config.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_bytes())
        kind = raw.get("model_type")
        if kind not in ("clip", "clip_vision_model"):
            raise ValueError(f"model_type is {kind!r}, CLIP's is 'clip'")
        sizes = raw.get("vision_config", {}) if kind == "clip" else raw
        model = CLIPVisionModel(CLIPVisionConfig(**{name: sizes[name] for name in SIZES if name in sizes}))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder}: no config.json here; --clip is the folder of openai/clip-vit-large-patch14-336"
        ) from error
    except Exception as error:  # transformers raises any of a damaged file
        raise CheckpointError(f"{path}: not usable: {error}; --clip is a CLIP folder") from error
    tensors = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in open_tensors(folder).items()
        # A table of 0, 1, 2..., which older files hold and the module makes itself.
        if name.startswith(PREFIX) and not name.endswith("position_ids")
    }
    check_tensors(layout_of(tensors), model, folder)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return ClipTower(model)


def write_clip(tower: ClipTower, folder: Path) -> None:
    """Writes a tower as a checkpoint holds it, and as the official scripts load it."""
    folder.mkdir()
    state = {PREFIX + name: tensor.contiguous() for name, tensor in tower.state().items()}
    save_tensors(state, folder / WEIGHTS, {"format": "pt"})
    tower.config.architectures = ["CLIPVisionModel"]
    tower.config.save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": tower.size},
        "crop_size": {"height": tower.size, "width": tower.size},
        "image_mean": MEAN,
        "image_std": DEVIATION,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
