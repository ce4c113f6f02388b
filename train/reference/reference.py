"""Reference log-probs: computed once before training, kept in Zarr, refused when anything has moved.

Legend: P preferences, K masks of a preference. How they lie on disk: `train.reference.store`.

Training reads the whole store once, before its first step, and holds it in memory: 8 + 16 K bytes a
preference. No step touches the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.checkpoints.weights import fingerprint, load_config
from engine.errors import StageOrderError, StaleError
from engine.files.atomic import place_folder
from engine.files.lock import holding
from engine.models.showo_config import ShowoConfig
from engine.records import Preference, Record
from train.config import TrainConfig
from train.data.batch import WHICH, Layout, Row
from train.data.image_mask import MASK_RULE, ImageMask, image_mask, mask_seed
from train.data.preferences import digest
from train.logps.row_logps import RowLogps
from train.reference.store import (
    PartialStore,
    attributes_of,
    block_size,
    read_whole,
)

SCHEMA = 3
BATCH_ROWS = 32

FREE = "free it, or set train.dtype to bfloat16; finished blocks are kept, and the same command goes on"
"""What to do where the pass runs out of memory."""

ScoreBlocks = Callable[[PartialStore, Sequence[int]], Iterable[int]]
"""Fills blocks of a partial store, and yields the number of each once it is kept."""
Report = Callable[[int, int], None]
"""Hears of (preferences done, preferences in all)."""


class ReferenceBasis(Record):
    """Everything that stored log-probs depend on; kept as the store's attributes."""

    weights: str
    """Fingerprint of the reference checkpoint."""
    pairs: str
    """Digest of what scoring reads of the preferences, order included."""
    mask_rule: str
    num_masks: int
    mask_seed: int
    text_dropout: float
    image_tokens: int
    caption_prompt: str
    dtype: str
    """Arithmetic of the scoring model: the policy must round as its reference did."""
    device: str
    """Kind of device that scores; it rounds in its own way, as a dtype does."""
    schema: int = SCHEMA

    @classmethod
    def of(cls, checkpoint: Path, preferences: Sequence[Preference], config: TrainConfig) -> ReferenceBasis:
        """The basis that a run with these inputs needs."""
        model: ShowoConfig = load_config(checkpoint)
        return cls(
            weights=fingerprint(checkpoint),
            pairs=digest(preferences),
            mask_rule=MASK_RULE,
            num_masks=config.num_masks,
            mask_seed=config.seed,
            text_dropout=config.text_dropout,
            image_tokens=model.num_image_tokens,
            caption_prompt=model.caption_prompt,
            dtype=config.dtype,
            device=config.device_type,
        )


class Reference(NamedTuple):
    """All reference log-probs, in memory: sums over each row's labels; NaN where there is no such pair."""

    caption_win: NDArray[np.float32]
    """[P]."""
    caption_lose: NDArray[np.float32]
    image_win: NDArray[np.float32]
    """[P, K]."""
    image_lose: NDArray[np.float32]
    mask_seed: NDArray[np.int64]
    """[P, K]."""

    def image_mask(self, pair: int, number: int, tokens: int, config: TrainConfig) -> ImageMask:
        """What this preference's image log-probs of this number were taken under."""
        return image_mask(int(self.mask_seed[pair, number]), tokens, config.text_dropout)


def open_reference(path: Path, basis: ReferenceBasis) -> Reference:
    """A finished store that fits this run.

    Raises:
        StageOrderError: there is no store.
        StaleError: it was computed from other weights, preferences or masks, of which both values are named;
            or it is damaged.
    """
    if not path.is_dir():
        raise StageOrderError(f"{path}: no reference log-probs; run `hermes reference` first")
    attributes = attributes_of(path)
    moved = _differences(attributes, basis) if attributes else []
    arrays = read_whole(path) if attributes and not moved else None
    if arrays is None:
        raise StaleError(
            f"{path}: {'; '.join(moved) or 'is damaged'}; run `hermes reference` again, or `hermes train`, "
            "which computes it first"
        )
    return Reference(**arrays)


def compute_reference(
    path: Path,
    basis: ReferenceBasis,
    preferences: Sequence[Preference],
    layout: Layout,
    score: ScoreBlocks,
    report: Report,
    block: int | None = None,
) -> Path:
    """Brings the store at `path` up to date with `basis`, and returns it.

    `score` fills the blocks of a partial store that it is given, and yields each block's number once it is
    kept: `blocks_here`, or several processes (`train.reference.ranks`). Which rows are scored together
    depends on the block alone, so the values do not depend on who scores them.

    A finished store with the same basis is left alone; one with another basis, or a damaged one, is replaced
    when the new one is complete. Progress lives in a sibling folder, so a killed call goes on where it
    stopped. `block` is the number of preferences in a block of a new store, by default `block_size`.

    Raises:
        DataError: the preferences do not fit the checkpoint.
        BusyError: another process computes this store.
    """
    total = len(preferences)
    if fits(path, basis):
        report(total, total)
        return path
    layout.check(preferences)
    busy = f"{path}: another process computes it; wait for it, or stop it"
    with holding(path.with_name(path.name + ".lock"), busy):
        folder = partial_of(path)
        store = _open_partial(folder, basis, preferences, block or block_size(total))
        missing = store.missing()
        done = total - sum(map(store.length, missing))
        report(done, total)
        for number in score(store, missing):
            done += store.length(number)
            report(done, total)
        place_folder(folder, path, replace=True)
    return path


def fits(path: Path, basis: ReferenceBasis) -> bool:
    """Whether a finished store with this basis is there, and whole."""
    same = path.is_dir() and not _differences(attributes_of(path), basis)
    return same and read_whole(path) is not None


def partial_of(path: Path) -> Path:
    """Where the store of `path` grows."""
    return path.with_name(path.name + ".partial")


def blocks_here(
    preferences: Sequence[Preference], basis: ReferenceBasis, layout: Layout, model: RowLogps
) -> ScoreBlocks:
    """Scoring in this process, block after block."""

    def score(store: PartialStore, numbers: Sequence[int]) -> Iterable[int]:
        for number in numbers:
            store.write(number, score_block(preferences[store.span(number)], basis, layout, model))
            yield number

    return score


def score_block(
    preferences: Sequence[Preference], basis: ReferenceBasis, layout: Layout, model: RowLogps
) -> dict[str, NDArray[Any]]:
    """The `Reference` arrays of a few preferences, scored in batches of rows of like length."""
    count, masks = len(preferences), basis.num_masks
    arrays: dict[str, NDArray[Any]] = {
        f"{kind}_{which}": np.full(shape, np.nan, np.float32)
        for kind, shape in (("caption", (count,)), ("image", (count, masks)))
        for which in WHICH
    }
    seeds = np.array(
        [[mask_seed(one.id, k, basis.mask_seed) for k in range(masks)] for one in preferences], np.int64
    )
    work: list[tuple[Row, str, tuple[int, ...]]] = []
    for i, one in enumerate(preferences):
        for which in WHICH:
            if one.captions:
                work.append((layout.caption_of(one, which), f"caption_{which}", (i,)))
            for k in range(masks if one.images else 0):
                mask = image_mask(int(seeds[i, k]), basis.image_tokens, basis.text_dropout)
                work.append((layout.image_of(one, which, mask), f"image_{which}", (i, k)))
    work.sort(key=lambda entry: len(entry[0].ids))
    for start in range(0, len(work), BATCH_ROWS):
        part = work[start : start + BATCH_ROWS]
        scores = model.score(layout.stack([row for row, _, _ in part]))
        for (_, name, place), score in zip(part, scores.tolist(), strict=True):
            arrays[name][place] = score
    return arrays | {"mask_seed": seeds}


def _open_partial(
    folder: Path, basis: ReferenceBasis, preferences: Sequence[Preference], block: int
) -> PartialStore:
    attributes = attributes_of(folder) if folder.is_dir() else {}
    if attributes.get("ready") and not _differences(attributes, basis):
        with suppress(Exception):  # zarr raises several types of its own
            return PartialStore.open(folder)
    ids = [one.id for one in preferences]
    return PartialStore.create(folder, msgspec.to_builtins(basis), ids, basis.num_masks, block)


def _differences(found: dict[str, Any], basis: ReferenceBasis) -> list[str]:
    names = {"pairs": "preferences"}
    return [
        f"was computed with {names.get(name, name)} {found.get(name)!r}, this run has {wanted!r}"
        for name, wanted in msgspec.to_builtins(basis).items()
        if found.get(name) != wanted
    ]
