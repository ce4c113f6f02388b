"""Reference log-probs: computed once before training, kept in Zarr, refused when anything has moved.

Legend: P preferences, K masks of a preference, B preferences in one block.

One block of preferences is one Zarr chunk, written once, and marked done by a chunk of its own after all
others. So a killed computation loses one block at most, and no chunk is ever read, changed and written back.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zarr
from numpy.typing import NDArray

from engine.errors import StageOrderError, StaleError
from engine.models.showo_config import ShowoConfig
from engine.records import Preference, Record
from engine.weights import fingerprint, load_config
from train.batch import Layout, Row
from train.config import TrainConfig
from train.image_mask import MASK_RULE, mask_from_seed, mask_seed
from train.preferences import digest
from train.row_logps import RowLogps

SCHEMA = 1
BLOCK = 32
"""B of a new store. Long enough to sort by length, short enough that a kill costs little."""
BATCH_ROWS = 32


class ReferenceBasis(Record):
    """Everything that stored log-probs depend on; kept as the store's attributes."""

    weights: str
    """Fingerprint of the reference checkpoint."""
    pairs: str
    """Digest of the preferences, order included."""
    mask_rule: str
    mask_draws: int
    mask_seed: int
    image_tokens: int
    caption_prompt: str
    dtype: str
    """Arithmetic of the scoring model: the policy must round as its reference did."""
    image_vocabulary: str = "full"
    """The normaliser of image labels."""
    schema: int = SCHEMA

    @classmethod
    def of(cls, checkpoint: Path, preferences: Sequence[Preference], config: TrainConfig) -> ReferenceBasis:
        """The basis that a run with these inputs needs."""
        model: ShowoConfig = load_config(checkpoint)
        return cls(
            weights=fingerprint(checkpoint),
            pairs=digest(preferences),
            mask_rule=MASK_RULE,
            mask_draws=config.mask_draws,
            mask_seed=config.seed,
            image_tokens=model.num_image_tokens,
            caption_prompt=model.caption_prompt,
            dtype=config.dtype,
            image_vocabulary=config.image_vocabulary,
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

    def hidden(self, pair: int, draw: int, tokens: int) -> NDArray[np.bool_]:
        """The mask, True = hidden, that this preference's image log-probs of this draw were taken under."""
        return mask_from_seed(int(self.mask_seed[pair, draw]), tokens)


def open_reference(path: Path, basis: ReferenceBasis) -> Reference:
    """A finished store that fits this run.

    Raises:
        StageOrderError: there is no store.
        StaleError: it was computed from other weights, preferences or masks; names both values.
    """
    if not path.is_dir():
        raise StageOrderError(f"{path}: no reference log-probs; run `hermes reference` first")
    with _quiet_zarr():
        group = zarr.open_group(path, mode="r")
        moved = _differences(dict(group.attrs), basis)
        if moved:
            raise StaleError(
                f"{path}: {'; '.join(moved)}; run `hermes reference` again, or `hermes train`, "
                "which computes it first"
            )
        arrays: dict[str, Any] = {name: group[name][:] for name in Reference._fields}  # type: ignore[index]
    return Reference(**arrays)


def compute_reference(
    path: Path,
    basis: ReferenceBasis,
    preferences: Sequence[Preference],
    layout: Layout,
    model: RowLogps,
    report: Callable[[int, int], None],
    block: int = BLOCK,
) -> Path:
    """Scores all preferences under the frozen model into the store at `path`, and returns it.

    A finished store with the same basis is left alone; one with another basis is replaced when the new one
    is complete. Progress lives in a sibling folder, so a killed call goes on where it stopped. `report` gets
    (preferences done, preferences in all) after each block.
    """
    if path.is_dir() and not _differences(_attributes(path), basis):
        report(len(preferences), len(preferences))
        return path
    layout.check(preferences)
    partial = path.with_name(path.name + ".partial")
    with _quiet_zarr():
        group = _open_partial(partial, basis, preferences, block)
        done: Any = group["done"]
        size = group["caption_win"].chunks[0]  # type: ignore[union-attr]
        for number, start in enumerate(range(0, len(preferences), size)):
            stop = min(start + size, len(preferences))
            if not done[number]:
                for name, values in score_block(preferences[start:stop], basis, layout, model).items():
                    group[name][start:stop] = values  # type: ignore[index]
                done[number] = True
            report(stop, len(preferences))
    _swap(partial, path)
    return path


def score_block(
    preferences: Sequence[Preference], basis: ReferenceBasis, layout: Layout, model: RowLogps
) -> dict[str, NDArray[Any]]:
    """The `Reference` arrays of a few preferences, scored in batches of rows of like length."""
    count, draws = len(preferences), basis.mask_draws
    shapes: dict[str, tuple[int, ...]] = {"caption_win": (count,), "caption_lose": (count,)}
    shapes |= {"image_win": (count, draws), "image_lose": (count, draws)}
    arrays: dict[str, NDArray[Any]] = {
        name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()
    }
    seeds = np.array(
        [[mask_seed(one.id, draw, basis.mask_seed) for draw in range(draws)] for one in preferences],
        np.int64,
    )
    work: list[tuple[Row, str, tuple[int, ...]]] = []
    for i, one in enumerate(preferences):
        for side in ("win", "lose"):
            if one.captions:
                tokens = getattr(one.captions, side).token_ids
                row = layout.caption_row(one.image_codes, tokens, one.image_features)
                work.append((row, f"caption_{side}", (i,)))
            for draw in range(draws if one.images else 0):
                codes = getattr(one.images, side).codes
                hidden = mask_from_seed(int(seeds[i, draw]), basis.image_tokens)
                work.append((layout.image_row(one.caption, codes, hidden), f"image_{side}", (i, draw)))
    work.sort(key=lambda entry: len(entry[0].ids))
    for start in range(0, len(work), BATCH_ROWS):
        part = work[start : start + BATCH_ROWS]
        scores = model.score(layout.stack([row for row, _, _ in part]))
        for (_, name, place), score in zip(part, scores.tolist(), strict=True):
            arrays[name][place] = score
    return arrays | {"mask_seed": seeds}


def _open_partial(
    partial: Path, basis: ReferenceBasis, preferences: Sequence[Preference], block: int
) -> zarr.Group:
    if partial.is_dir():
        attributes = _attributes(partial)
        if attributes.get("ready") and not _differences(attributes, basis):
            return zarr.open_group(partial, mode="r+")
        shutil.rmtree(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    group = zarr.open_group(partial, mode="w")
    group.attrs.update(msgspec.to_builtins(basis))
    count = len(preferences)
    for name in ("caption_win", "caption_lose"):
        group.create_array(name, shape=(count,), chunks=(block,), dtype="float32", fill_value=np.nan)
    shape, chunks = (count, basis.mask_draws), (block, basis.mask_draws)
    for name in ("image_win", "image_lose"):
        group.create_array(name, shape=shape, chunks=chunks, dtype="float32", fill_value=np.nan)
    group.create_array("mask_seed", shape=shape, chunks=chunks, dtype="int64", fill_value=-1)
    group.create_array("done", shape=(-(-count // block),), chunks=(1,), dtype="bool", fill_value=False)
    ids = np.array([one.id for one in preferences], dtype=np.dtypes.StringDType())
    group.create_array("pair_id", data=ids, chunks=(count,))
    group.attrs["ready"] = True
    return group


def _attributes(path: Path) -> dict[str, Any]:
    try:
        with _quiet_zarr():
            return dict(zarr.open_group(path, mode="r").attrs)
    except Exception:  # a store killed while it was created: zarr raises several types of its own
        return {}


def _differences(found: dict[str, Any], basis: ReferenceBasis) -> list[str]:
    names = {"weights": "weights", "pairs": "preferences"}
    return [
        f"was computed with {names.get(name, name)} {found.get(name)!r}, this run has {wanted!r}"
        for name, wanted in msgspec.to_builtins(basis).items()
        if found.get(name) != wanted
    ]


def _swap(partial: Path, path: Path) -> None:
    """Puts the finished store in place; a folder cannot replace a full folder in one call."""
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _quiet_zarr() -> Iterator[None]:
    """Zarr warns that its string type has no final specification; the ids are for readers alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
