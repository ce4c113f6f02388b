"""The text tokenizer of a release: Phi-1.5's byte-level BPE and the ten tokens that Show-o adds to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from engine.errors import CheckpointError
from engine.official.showo_layout import NEW_TOKENS, tokenizer_settings
from engine.tokenizers.text import END_OF_TEXT


def read_text_tokenizer(folder: Path, text_size: int) -> Tokenizer:
    """The tokenizer of `folder` with the ten new tokens from id `text_size` on.

    Raises:
        CheckpointError: files are missing, or the ids are not those that the weights were trained with.
    """
    tokenizer = _read_files(folder)
    _check_ends(folder)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    if END_OF_TEXT not in ids:
        raise CheckpointError(f"{folder}: the tokenizer has no {END_OF_TEXT}; give that of Phi-1.5")
    wanted = {token: text_size + place for place, token in enumerate(NEW_TOKENS)}
    astray = [
        f"{token} is id {ids[token]}" for token in NEW_TOKENS if ids.get(token, -1) not in (-1, wanted[token])
    ]
    if astray:
        raise CheckpointError(
            f"{folder}: the new tokens must have the ids {text_size} to {text_size + len(NEW_TOKENS) - 1}"
            f" in the official order, but {', '.join(astray)}; give Phi-1.5's own folder"
        )
    text = sorted(id for token, id in ids.items() if token not in wanted)
    if text != list(range(text_size)):
        raise CheckpointError(
            f"{folder}: the tokenizer has {len(text)} ids up to {text[-1]}, the release's text vocabulary is"
            f" {text_size} ids from 0 on; with vocab.json and merges.txt, added_tokens.json must be there too"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in NEW_TOKENS])
    return tokenizer


def write_text_tokenizer(stored: Path, folder: Path) -> None:
    """Writes a checkpoint's tokenizer.json into `folder` as the official scripts' old `tokenizers` reads it.

    Versions before 0.20 know a merge only as one string with a blank, which newer ones read as well.

    Raises:
        CheckpointError: the checkpoint has no usable tokenizer.
    """
    try:
        tokenizer = json.loads(stored.read_bytes())
        if merges := tokenizer["model"].get("merges"):
            tokenizer["model"]["merges"] = [one if isinstance(one, str) else " ".join(one) for one in merges]
    except Exception as error:  # of a damaged file, any
        raise CheckpointError(f"{stored}: no usable tokenizer: {error}") from error
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(tokenizer_settings()))
    )


def _read_files(folder: Path) -> Tokenizer:
    whole, vocabulary, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    try:
        if whole.is_file():
            return Tokenizer.from_file(str(whole))
        if vocabulary.is_file() and merges.is_file():
            return _byte_level(folder, models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{folder}: no usable tokenizer: {error}; download it again") from error
    raise CheckpointError(
        f"{folder}: no tokenizer here; tokenizer.json, or vocab.json and merges.txt, must be in the folder"
    )


def _byte_level(folder: Path, model: models.BPE) -> Tokenizer:
    """CodeGen's tokenizer around its merges, with the tokens for runs of blanks that Phi adds."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([END_OF_TEXT])
    added = folder / "added_tokens.json"
    if added.is_file():
        ids: dict[str, int] = json.loads(added.read_bytes())
        for token in sorted(ids, key=lambda one: ids[one]):
            tokenizer.add_tokens([AddedToken(token, normalized=True)])
            if tokenizer.token_to_id(token) != ids[token]:
                raise ValueError(
                    f"added_tokens.json gives {token!r} the id {ids[token]}, which is not the next one"
                )
    return tokenizer


def _check_ends(folder: Path) -> None:
    """Show-o begins and ends texts with bos and eos, which in Phi are one token."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    try:
        settings: dict[str, Any] = json.loads(path.read_bytes())
        ends = {name: settings.get(name) or END_OF_TEXT for name in ("bos_token", "eos_token")}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}; download it again") from error
    for name, token in ends.items():
        text = token.get("content") if isinstance(token, dict) else token
        if text != END_OF_TEXT:
            raise CheckpointError(f"{path}: {name} is {text!r}, Phi-1.5's is {END_OF_TEXT}")
