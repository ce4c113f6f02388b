"""The reference store: exact, resumable after any kill, refused when anything has moved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from damage import KINDS, damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoints.weights import load_model
from engine.errors import StageOrderError, StaleError
from engine.records import Preference
from train.config import TrainConfig
from train.data.batch import Layout, Rows
from train.data.image_mask import image_mask, mask_seed
from train.logps.row_logps import RowLogps
from train.reference.reference import (
    Reference,
    ReferenceBasis,
    blocks_here,
    compute_reference,
    fits,
    open_reference,
)

CONFIG = TrainConfig(num_masks=3, seed=7)


class KilledError(Exception):
    """Stands for the signal that ends a process."""


class CountingScorer(RowLogps):
    """Counts the rows that it scores, and dies where it is told to."""

    def __init__(self, checkpoint: Path, die_after: int = 10**9) -> None:
        super().__init__(load_model(checkpoint))
        self.rows, self._die_after = 0, die_after

    @torch.no_grad()
    def score(self, rows: Rows) -> torch.Tensor:
        if self.rows >= self._die_after:
            raise KilledError
        self.rows += len(rows.ids_RT)
        return super().score(rows)


def compute(
    path: Path,
    checkpoint: Path,
    preferences: list[Preference],
    scorer: CountingScorer | None = None,
    config: TrainConfig = CONFIG,
    report: Callable[[int, int], None] = lambda done, total: None,
    block: int = 2,
) -> Reference:
    basis, layout = ReferenceBasis.of(checkpoint, preferences, config), Layout.load(checkpoint)
    score = blocks_here(preferences, basis, layout, scorer or CountingScorer(checkpoint))
    compute_reference(path, basis, preferences, layout, score, report, block)
    return open_reference(path, basis)


def assert_same(found: Reference, wanted: Reference) -> None:
    for name, first, second in zip(Reference._fields, found, wanted, strict=True):
        assert np.array_equal(first, second, equal_nan=True), name


def test_each_value_is_the_log_prob_of_its_row_alone(
    tmp_path: Path, checkpoint: Path, preferences: list[Preference]
) -> None:
    found = compute(tmp_path / "refs.zarr", checkpoint, preferences)
    layout, scorer = Layout.load(checkpoint), RowLogps(load_model(checkpoint))
    one = preferences[2]
    row = layout.caption_row(one.image_codes, one.captions.lose.token_ids)
    assert scorer.score(layout.stack([row])).item() == pytest.approx(found.caption_lose[2], abs=1e-4)
    masked = image_mask(mask_seed(one.id, 1, CONFIG.seed), 9).masked
    assert np.array_equal(found.image_mask(2, 1, 9, CONFIG).masked, masked)
    row = layout.image_row(one.caption, one.images.win.codes, masked)
    assert scorer.score(layout.stack([row])).item() == pytest.approx(found.image_win[2, 1], abs=1e-4)


def test_a_side_that_a_preference_lacks_is_nan_and_nothing_else_is(
    tmp_path: Path, checkpoint: Path, preferences: list[Preference]
) -> None:
    found = compute(tmp_path / "refs.zarr", checkpoint, preferences)
    assert np.isnan(found.caption_win).tolist() == [i == 1 for i in range(6)]
    assert np.isnan(found.image_lose).tolist() == [[i == 4] * 3 for i in range(6)]


def test_a_killed_computation_goes_on_and_ends_with_the_same_store(
    tmp_path: Path,
    checkpoint: Path,
    preferences_like: Callable[..., list[Preference]],
) -> None:
    preferences = preferences_like(11)
    whole = CountingScorer(checkpoint)
    wanted = compute(tmp_path / "whole.zarr", checkpoint, preferences, whole)
    path = tmp_path / "refs.zarr"
    total = 0
    for die_after in (1, 20, 1):
        scorer = CountingScorer(checkpoint, die_after)
        with pytest.raises(KilledError):
            compute(path, checkpoint, preferences, scorer)
        assert not path.exists()
        total += scorer.rows
    last = CountingScorer(checkpoint)
    assert_same(compute(path, checkpoint, preferences, last), wanted)
    assert total + last.rows == whole.rows
    assert not path.with_name("refs.zarr.partial").exists()


def test_a_kill_between_a_block_and_its_mark_leaves_no_half_block_behind(
    tmp_path: Path,
    checkpoint: Path,
    preferences_like: Callable[..., list[Preference]],
) -> None:
    preferences = preferences_like(9)
    wanted = compute(tmp_path / "whole.zarr", checkpoint, preferences)
    path = tmp_path / "refs.zarr"

    def die(done: int, total: int) -> None:
        if done == 4:
            raise KilledError

    with pytest.raises(KilledError):
        compute(path, checkpoint, preferences, report=die)
    partial = path.with_name("refs.zarr.partial")
    (partial / "seals" / "c" / "1").unlink()
    shutil.rmtree(partial / "image_lose" / "c" / "1")
    assert_same(compute(path, checkpoint, preferences), wanted)


def test_a_store_killed_while_it_was_created_is_begun_anew(
    tmp_path: Path, checkpoint: Path, preferences: list[Preference]
) -> None:
    path = tmp_path / "refs.zarr"
    partial = path.with_name("refs.zarr.partial")
    partial.mkdir()
    (partial / "zarr.json").write_text("{")
    assert np.isfinite(compute(path, checkpoint, preferences).caption_win[0])


@given(place=st.floats(0, 1, exclude_max=True), kind=KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_to_a_store_is_found_and_a_new_pass_mends_it(
    tmp_path: Path,
    checkpoint: Path,
    preferences: list[Preference],
    place: float,
    kind: str | tuple[float, int],
) -> None:
    path = tmp_path / "refs.zarr"
    wanted, basis = (
        compute(path, checkpoint, preferences),
        ReferenceBasis.of(checkpoint, preferences, CONFIG),
    )
    files = sorted(one for one in path.rglob("*") if one.is_file())
    with damaged(files[int(place * len(files))], kind):
        if fits(path, basis):
            assert_same(open_reference(path, basis), wanted)
            return
        with pytest.raises(StaleError, match="hermes reference"):
            open_reference(path, basis)
    with damaged(files[int(place * len(files))], kind):
        assert_same(compute(path, checkpoint, preferences), wanted)


def test_a_damaged_block_of_a_killed_computation_is_scored_again(
    tmp_path: Path, checkpoint: Path, preferences: list[Preference]
) -> None:
    path = tmp_path / "refs.zarr"
    wanted = compute(tmp_path / "whole.zarr", checkpoint, preferences)
    rows = CountingScorer(checkpoint)
    compute(tmp_path / "counted.zarr", checkpoint, preferences, rows)

    def die(done: int, total: int) -> None:
        if done == 4:
            raise KilledError

    with pytest.raises(KilledError):
        compute(path, checkpoint, preferences, report=die)
    torn = path.with_name("refs.zarr.partial") / "image_win" / "c" / "0" / "0"
    torn.write_bytes(torn.read_bytes()[:-3])
    scorer = CountingScorer(checkpoint)
    assert_same(compute(path, checkpoint, preferences, scorer), wanted)
    assert 0 < scorer.rows < rows.rows


def test_a_finished_store_is_not_computed_again(
    tmp_path: Path, checkpoint: Path, preferences: list[Preference]
) -> None:
    path = tmp_path / "refs.zarr"
    wanted = compute(path, checkpoint, preferences)
    idle = CountingScorer(checkpoint, die_after=0)
    assert_same(compute(path, checkpoint, preferences, idle), wanted)
    assert idle.rows == 0


def test_moved_weights_pairs_or_masks_are_refused_with_both_values_and_the_command(
    tmp_path: Path, checkpoint: Path, other_checkpoint: Path, preferences: list[Preference]
) -> None:
    path = tmp_path / "refs.zarr"
    compute(path, checkpoint, preferences)
    stored = ReferenceBasis.of(checkpoint, preferences, CONFIG)
    moved = {
        "weights": ReferenceBasis.of(other_checkpoint, preferences, CONFIG),
        "pairs": ReferenceBasis.of(checkpoint, preferences[1:], CONFIG),
        "mask_seed": ReferenceBasis.of(checkpoint, preferences, msgspec.structs.replace(CONFIG, seed=8)),
        "num_masks": ReferenceBasis.of(checkpoint, preferences, msgspec.structs.replace(CONFIG, num_masks=2)),
        "text_dropout": ReferenceBasis.of(
            checkpoint, preferences, msgspec.structs.replace(CONFIG, text_dropout=0.1)
        ),
        "dtype": ReferenceBasis.of(
            checkpoint, preferences, msgspec.structs.replace(CONFIG, dtype="bfloat16")
        ),
        "schema": msgspec.structs.replace(stored, schema=1),
    }
    for name, basis in moved.items():
        with pytest.raises(StaleError) as caught:
            open_reference(path, basis)
        message = str(caught.value)
        assert repr(getattr(stored, name)) in message
        assert repr(getattr(basis, name)) in message
        assert "hermes reference" in message


def test_a_stale_store_is_replaced_by_a_new_computation(
    tmp_path: Path, checkpoint: Path, other_checkpoint: Path, preferences: list[Preference]
) -> None:
    path = tmp_path / "refs.zarr"
    first = compute(path, checkpoint, preferences)
    second = compute(path, other_checkpoint, preferences)
    assert not np.array_equal(first.caption_win, second.caption_win, equal_nan=True)


def test_training_before_the_reference_is_a_stage_order_error(
    tmp_path: Path, checkpoint: Path, preferences: list[Preference]
) -> None:
    with pytest.raises(StageOrderError, match="hermes reference"):
        open_reference(tmp_path / "refs.zarr", ReferenceBasis.of(checkpoint, preferences, CONFIG))
