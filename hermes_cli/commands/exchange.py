"""`hermes import` and `hermes export`: official releases in, official layout out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

FAMILIES = ("showo",)

Folder = Annotated[Path, typer.Option("--to", help="New folder to write.")]


class StoredType(StrEnum):
    """In which type weights are stored."""

    keep = "keep"
    bfloat16 = "bfloat16"
    float32 = "float32"


def import_release(
    to: Folder,
    weights: Annotated[
        Path, typer.Option("--weights", help="Folder of show-o, show-o-512x512, HermesFlow...")
    ],
    vq: Annotated[Path, typer.Option("--vq", help="Folder of showlab/magvitv2.")],
    text_tokenizer: Annotated[Path, typer.Option("--text-tokenizer", help="Folder of microsoft/phi-1_5.")],
    family: Annotated[str, typer.Option("--family", help="Kind of model; showo is known.")] = "showo",
    clip: Annotated[
        Path | None, typer.Option("--clip", help="Folder of the CLIP-ViT of a clip variant.")
    ] = None,
    dtype: Annotated[
        StoredType, typer.Option("--dtype", help="Type to store the weights in.")
    ] = StoredType.keep,
    image_tokens: Annotated[
        int | None,
        typer.Option("--image-tokens", min=1, help="Tokens of an image, if not the release's num_vq_tokens."),
    ] = None,
) -> None:
    """Read an official Show-o or HermesFlow release into a checkpoint folder."""
    from engine.errors import ConfigError

    if family not in FAMILIES:
        raise ConfigError(f"--family {family}: not known; known is {', '.join(FAMILIES)}")
    import torch

    from engine.official.showo import import_showo

    chosen = None if dtype is StoredType.keep else getattr(torch, dtype.value)
    found = import_showo(weights, vq, text_tokenizer, to, dtype=chosen, image_tokens=image_tokens, clip=clip)
    typer.echo(
        f"{to}: {found.parameters:,} parameters in {found.dtype}, {found.layers} layers,"
        f" {found.vocabulary:,} ids, {found.image_tokens} tokens an image"
    )
    typer.echo(f"use it with --model {to}")


def export_release(
    to: Folder,
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", help="Checkpoint folder, e.g. RUN/round-1/checkpoint.")
    ],
) -> None:
    """Write a checkpoint in the official layout, for the official scripts."""
    from engine.files.layout import CLIP_FOLDER
    from engine.official.showo import LLM_FOLDER, VQ_FOLDER, export_showo

    export_showo(checkpoint, to)
    typer.echo(f"{to}: written; in the yaml file of the official scripts set")
    typer.echo(f"  model.showo.pretrained_model_path: {to.absolute()}")
    typer.echo(f"  model.showo.llm_model_path: {to.absolute() / LLM_FOLDER}")
    typer.echo(f"  model.vq_model.vq_model_name: {to.absolute() / VQ_FOLDER}")
    if (to / CLIP_FOLDER).is_dir():
        typer.echo(f"and in inference_mmu.py vision_tower_name = {str(to.absolute() / CLIP_FOLDER)!r}")
