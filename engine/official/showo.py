"""Reads an official Show-o or HermesFlow release into a checkpoint folder, and writes one back.

| official | ours |
|---|---|
| config.json (vocabulary, image size), the weights | config.json, model.safetensors |
| the language model's folder (sizes, tokenizer) | config.json, tokenizer.json |
| the MAGVIT-v2 folder | image_tokenizer/ |
| the CLIP folder of a variant that sees through one | clip/ |
| nothing: prompts stand in the scripts and their yaml files | config.json; hermes.json in an export |
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import torch

from engine.checkpoints.compatibility import check_weights
from engine.checkpoints.weights import load_config, save_state
from engine.errors import UNREADABLE, CheckpointError
from engine.files.atomic import atomic_folder, check_free
from engine.files.layout import CLIP_FOLDER, WEIGHTS
from engine.files.tensors import layout_of
from engine.models.clip_tower import ClipTower
from engine.models.showo_config import ShowoConfig
from engine.official import showo_layout as layout
from engine.official.clip_layout import read_clip, write_clip
from engine.official.magvit_layout import read_magvit, write_magvit
from engine.official.tensor_files import open_tensors
from engine.official.text_tokenizer import read_text_tokenizer, write_text_tokenizer
from engine.records import Record
from engine.tokenizers.image import load_image_tokenizer, save_image_tokenizer
from engine.tokenizers.magvit_v2 import MagvitV2
from engine.tokenizers.text import END_OF_TEXT

WORDING = "hermes.json"
LLM_FOLDER = "phi"
VQ_FOLDER = "magvitv2"


class Imported(Record):
    """What an import read."""

    parameters: int
    dtype: str
    layers: int
    vocabulary: int
    image_tokens: int


def import_showo(
    weights: Path,
    vq: Path,
    text_tokenizer: Path,
    to: Path,
    dtype: torch.dtype | None = None,
    image_tokens: int | None = None,
    clip: Path | None = None,
) -> Imported:
    """Writes the checkpoint folder `to` from a release; nothing is written unless all of it fits.

    Args:
        weights: config.json and the tensors.
        vq: the MAGVIT-v2 folder.
        text_tokenizer: Phi-1.5's folder; its config.json, where it has one, gives the transformer's sizes.
        to: a folder that does not exist yet, or is empty.
        dtype: the type to store the weights in; that of the files by default.
        image_tokens: codes of an image, where num_vq_tokens does not say what the release was trained on.
        clip: the CLIP folder of a variant whose understanding sees through one.

    Raises:
        CheckpointError: says what does not fit, naming every unknown, missing and mis-shaped tensor at once.
        DataError: `to` is there already, or cannot be written.
    """
    check_free(to)
    path = weights / "config.json"
    official = layout.parse_config(_read_json(path), str(path))
    if clip is not None and not official.w_clip_vit:
        raise CheckpointError(
            f"{weights}: this release sees through MAGVIT-v2 alone; leave out --clip {clip}"
        )
    if clip is None and official.w_clip_vit:
        raise CheckpointError(
            f"{weights}: understanding sees CLIP features (w_clip_vit); give the folder of"
            " openai/clip-vit-large-patch14-336 with --clip"
        )
    if image_tokens is not None:
        official = msgspec.structs.replace(official, num_vq_tokens=image_tokens)
    phi = _phi_sizes(text_tokenizer, official)
    tensors = open_tensors(weights)
    text = read_text_tokenizer(text_tokenizer, official.llm_vocab_size)
    wording, tower = _read_wording(weights), read_clip(clip) if clip else None
    if wording is None:
        system = text.encode(layout.SYSTEM_PROMPT, add_special_tokens=False).ids if tower else ()
        wording = layout.official_wording(system)
    seen = (tower.tokens, tower.width) if tower else None
    config = layout.to_ours(official, phi, text.get_vocab()[END_OF_TEXT], wording, seen)
    check_weights(weights, config, layout_of(tensors))
    _check_lengths(config, weights)
    image = read_magvit(vq, config.num_image_tokens)
    if 2**image.config.bits != config.codebook_size:
        raise CheckpointError(
            f"{vq}: has {2**image.config.bits} codes, the release in {weights} was trained with"
            f" {config.codebook_size}; give its own image tokenizer with --vq"
        )
    with atomic_folder(to) as folder:
        text.save(str(folder / "tokenizer.json"))
        save_image_tokenizer(image, folder / "image_tokenizer")
        if tower is not None:
            write_clip(tower, folder / CLIP_FOLDER)
        # Tensors that need no change stay mapped; each other one is copied once.
        state = {name: one.detach().to(dtype or one.dtype).contiguous() for name, one in tensors.items()}
        save_state(state, config, folder)
    return Imported(
        parameters=sum(tensor.numel() for tensor in state.values()),
        dtype=", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})),
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        image_tokens=config.num_image_tokens,
    )


def export_showo(checkpoint: Path, to: Path) -> None:
    """Writes a checkpoint as the official scripts load it: `to`, `to`/magvitv2, `to`/phi and `to`/clip.

    The weights are a safetensors file under the name that the official `from_pretrained` looks for first.

    Raises:
        CheckpointError: the checkpoint is incomplete, or the official code has no model of its kind.
        DataError: `to` is there already, or cannot be written.
    """
    check_free(to)
    config = load_config(checkpoint)
    check_weights(checkpoint, config)
    image = load_image_tokenizer(checkpoint / "image_tokenizer")
    if not isinstance(image, MagvitV2):
        raise CheckpointError(
            f"{checkpoint}: its image tokenizer is a {image.config.kind}, and the official scripts load"
            " MAGVIT-v2 only; export a checkpoint that came from `hermes import`"
        )
    # The official constructor reads the transformer's sizes from the hub for Phi-1.5, else from the export.
    hub = layout.phi_sizes(config) == layout.PhiSizes()
    llm = layout.LLM if hub else str((to / LLM_FOLDER).absolute())
    with atomic_folder(to) as folder:
        shutil.copyfile(checkpoint / WEIGHTS, folder / "pytorch_model.safetensors")
        _write_json(folder / "config.json", layout.to_official(config, llm))
        _write_json(folder / WORDING, msgspec.convert(config, layout.Wording, from_attributes=True))
        (folder / LLM_FOLDER).mkdir()
        _write_json(folder / LLM_FOLDER / "config.json", layout.to_phi(config))
        write_text_tokenizer(checkpoint / "tokenizer.json", folder / LLM_FOLDER)
        write_magvit(image, folder / VQ_FOLDER)
        if config.w_clip_vit:
            write_clip(ClipTower.load(checkpoint / CLIP_FOLDER), folder / CLIP_FOLDER)


def _phi_sizes(folder: Path, official: layout.OfficialConfig) -> layout.PhiSizes:
    """From the language model's own config.json, or from its name where the folder has the tokenizer only."""
    path = folder / "config.json"
    if path.is_file():
        return layout.parse_phi(_read_json(path), str(path))
    if Path(official.llm_model_path).name == Path(layout.LLM).name:
        return layout.PhiSizes()
    raise CheckpointError(
        f"{folder}: no config.json here, and the sizes of {official.llm_model_path!r} are not known; put that"
        " model's config.json into the folder"
    )


def _check_lengths(config: ShowoConfig, where: Path) -> None:
    tokens, positions = config.num_image_tokens, config.max_position_embeddings
    longest = config.max_text_len + 1 + max(tokens + 2, config.prefix_length if config.w_clip_vit else 0)
    problems = []
    if math.isqrt(tokens) ** 2 != tokens:
        problems.append(f"{tokens} tokens are no square image")
    if longest > positions:
        problems.append(
            f"{tokens} image tokens and a text are {longest} positions, the model has {positions}"
        )
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems)}; is num_vq_tokens, or --image-tokens, right?")


def _read_wording(folder: Path) -> layout.Wording | None:
    path = folder / WORDING
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=layout.Wording)
    except (OSError, *UNREADABLE) as error:
        raise CheckpointError(f"{path}: {error}; export the checkpoint again, or remove the file") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent}: no config.json in this folder; download the whole release"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}; download it again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: not a JSON object; download it again")
    return found


def _write_json(path: Path, content: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
