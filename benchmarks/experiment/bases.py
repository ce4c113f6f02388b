"""The experiment's base models, as they are shipped: rows measured on different machines are of one model.

    python -m benchmarks.experiment.bases --to runs               # runs/careless/checkpoint, runs/careful/...
    python -m benchmarks.experiment.bases --pack runs/careless    # ships what `hermes pretrain` left there

Pretraining is repeatable on one kind of CPU alone: others round otherwise, and after some thousand steps have
another model. A shipped base is weights in bfloat16 and nothing else: shape and tokenizers are the embedded
model's, from which both go on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.speed.bench import plain_parser
from engine.checkpoints.weights import FORMAT, load_config, load_model, save_state
from engine.errors import CheckpointError, HermesError
from engine.files.layout import EMBEDDED_MODEL, WEIGHTS
from engine.files.tensors import check_tensors, save_tensors, tensor_layout

NAMES = ("careless", "careful")
SHIPPED = Path(__file__).parent


def pack(run: Path, to: Path = SHIPPED) -> Path:
    """Writes the weights of a pretraining's folder where they are shipped from, rounded to bfloat16.

    Raises:
        CheckpointError: there is no checkpoint of the embedded model's shape.
    """
    path = run / "checkpoint" / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{run}: no checkpoint/{WEIGHTS}; `hermes pretrain --to {run}` makes one")
    check_tensors(tensor_layout(path), load_model(EMBEDDED_MODEL), path)
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}
    target = to / f"{run.name}.safetensors"
    save_tensors(rounded, target, FORMAT)
    return target


def unpack(name: str, to: Path, shipped: Path = SHIPPED) -> Path:
    """A checkpoint in float32 of a shipped base, in `to`/`name`; one that is there is left alone.

    Raises:
        CheckpointError: no such base is shipped.
    """
    folder, path = to / name / "checkpoint", shipped / f"{name}.safetensors"
    if (folder / WEIGHTS).is_file():
        return folder
    if not path.is_file():
        raise CheckpointError(f"{path}: no such base is shipped, only {', '.join(NAMES)}")
    whole = {one: tensor.float() for one, tensor in load_file(path).items()}
    save_state(whole, load_config(EMBEDDED_MODEL), folder, EMBEDDED_MODEL)
    return folder


def main() -> None:
    """Unpacks both bases, or packs one."""
    parser = plain_parser(__doc__)
    parser.add_argument("--to", type=Path, default=Path("runs"))
    parser.add_argument("--pack", type=Path, help="a folder of `hermes pretrain`, called as the base is")
    given = parser.parse_args()
    try:
        done = [pack(given.pack)] if given.pack else [unpack(name, given.to) for name in NAMES]
    except HermesError as error:
        sys.exit(f"bases: {error}")
    for path in done:
        print(path)


if __name__ == "__main__":
    main()
