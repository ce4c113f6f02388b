"""Preference files: reading, digest, and which preferences an objective can use."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.errors import UNREADABLE, DataError
from engine.files.seals import require_sealed
from engine.records import CaptionCandidate, Preference
from train.config import TrainConfig


def load_preferences(path: Path) -> list[Preference]:
    """The records of a JSON-lines file, in file order.

    Raises:
        DataError: the file is missing, empty or not as it was sealed, a line is no preference, or an id
            occurs twice; the message names file and line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; `hermes curate` writes it")
    require_sealed(path, "run `hermes curate` again, or import the pairs again")
    decoder = msgspec.json.Decoder(Preference)
    found: dict[str, Preference] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                preference = decoder.decode(line)
            except UNREADABLE as error:
                raise DataError(f"{path}, line {number}: not a preference: {error}") from error
            if preference.id in found:
                raise DataError(f"{path}, line {number}: the id {preference.id!r} occurs a second time")
            found[preference.id] = preference
    if not found:
        raise DataError(f"{path}: holds no preferences; run `hermes curate` again with more items")
    return list(found.values())


def digest(preferences: Sequence[Preference]) -> str:
    """Sixteen hex digits of what scoring and training read of the preferences, and of their order.

    Scores, answers, provenance and texts of candidates are left out: log-probs do not depend on them.
    """
    found = hashlib.blake2b(digest_size=8)
    for one in preferences:
        captions = one.captions and (_labels(one.captions.win), _labels(one.captions.lose))
        images = one.images and (one.images.win.codes, one.images.lose.codes)
        content = (one.id, one.caption, one.image_codes, one.image_features, captions, images)
        found.update(msgspec.msgpack.encode(content))
    return found.hexdigest()


def _labels(caption: CaptionCandidate) -> tuple[int | None, ...]:
    """The ids, and None behind them where no end follows."""
    return caption.token_ids if caption.ended else (*caption.token_ids, None)


def usable(preferences: Sequence[Preference], config: TrainConfig) -> list[int]:
    """Indices of the preferences that the objective can learn from.

    `product` needs both sides of a preference; every other objective takes what is there.

    Raises:
        DataError: there is none.
    """
    chosen = []
    for index, preference in enumerate(preferences):
        sides = (
            config.uses_captions and preference.captions is not None,
            config.uses_images and preference.images is not None,
        )
        if all(sides) if config.needs_both else any(sides):
            chosen.append(index)
    if not chosen:
        raise DataError(
            f"none of the {len(preferences)} preferences has the pairs that objective {config.objective} "
            "needs; curate more items or choose another objective"
        )
    return chosen


def bounded(config: TrainConfig, pairs: Path) -> TrainConfig:
    """The configuration with the steps that `max_epochs` leaves of it for a file of preferences.

    Raises:
        DataError: the file cannot be read, or the objective can learn from none of them.
        ConfigError: `warmup` or `sum_steps` do not fit into the steps that are left.
    """
    if not config.max_epochs:
        return config
    return config.for_preferences(len(usable(load_preferences(pairs), config)))
