"""The folder of a text model, checked before it is opened: safetensors and a tokenizer, no code."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from engine.errors import CheckpointError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""A folder needs one of them."""
DECIDING = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
"""The files that decide what a model says."""


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def check_text_folder(folder: Path) -> None:
    """Whether a text model can be served from a folder.

    Raises:
        CheckpointError: no configuration, tokenizer or safetensors here, or a shard is missing.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: no {CONFIG} in this folder; give the folder of a language model")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(f"{folder}: no tokenizer in this folder; {TOKENIZERS[0]} must be there")
    shards = _shards(folder)
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {missing[0]} is missing, of {len(shards)} shards; download it again"
        )


def _shards(folder: Path) -> list[str]:
    """The names of the weights' files."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        raise CheckpointError(
            f"{folder}: no {WEIGHTS} in this folder, nor {INDEX}; weights in pickle files (.bin, .pt) are not"
            " read, because they can run code: take the model's safetensors"
        )
    try:
        index = msgspec.json.decode((folder / INDEX).read_bytes(), type=_Index)
    except msgspec.MsgspecError as error:
        raise CheckpointError(f"{folder / INDEX}: {error}; download it again") from error
    names = sorted(set(index.weight_map.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{folder / INDEX}: names {name!r}, which is no safetensors file beside it")
    return names


def text_fingerprint(folder: Path) -> str:
    """Sixteen hex digits of all files that decide what a text model says."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted({path for pattern in DECIDING for path in folder.glob(pattern)}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
