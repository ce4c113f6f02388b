"""The training benchmarks run on a tiny shape, and compare like with like; no claim about time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.objectives import margins
from benchmarks.objectives.objective_fields import PANELS, field
from benchmarks.speed import pair_work, train_step
from benchmarks.speed.reference_store import one_size
from benchmarks.speed.shapes import config_of, make
from train.distributed.policy import process_group


def test_both_sides_of_a_step_have_the_same_losses_and_move(tmp_path: Path) -> None:
    plan = train_step.Plan(shape="tiny", batch=2, masks=2, longest=10, repeats=3, warmups=0)
    work = train_step.Work(plan, tmp_path)
    losses: dict[str, list[float]] = {side: [] for side in train_step.SIDES}
    with process_group(plan.config):
        steps = {side: work.steps(side, losses[side]) for side in train_step.SIDES}
        for number in range(3):
            for side in train_step.SIDES:
                steps[side](number)
    assert losses["live"] == pytest.approx(losses["stored"], abs=train_step.TOLERANCE)
    # A frozen reference: after updates the losses of new pairs are no longer those of equal models.
    assert losses["live"][0] == pytest.approx(2 * np.log(2), abs=1e-4)
    assert abs(losses["live"][2] - 2 * np.log(2)) > 10 * train_step.TOLERANCE


def test_random_pairs_fit_their_shape_and_are_those_of_their_seed() -> None:
    config = config_of("tiny")
    found = pair_work.preferences(config, 5, 10, seed=1)
    assert found == pair_work.preferences(config, 5, 10, seed=1)
    assert found != pair_work.preferences(config, 5, 10, seed=2)
    for one in found:
        assert one.captions
        assert one.images
        assert len(one.images.win.codes) == config.num_image_tokens
        assert 8 <= len(one.captions.lose.token_ids) <= 10


def test_a_curve_has_a_number_a_step_and_an_earlier_one_is_found_again(tmp_path: Path) -> None:
    checkpoint = make(tmp_path / "tiny", "tiny")
    pairs = pair_work.write(tmp_path / "pairs.jsonl", pair_work.preferences(config_of("tiny"), 6, 10, 0))
    plan = margins.Plan(pairs="x", count=6, steps=3, batch=2, learning_rate=1e-3, sum_steps=2, seed=0)
    names = list(margins.variants(plan))
    curve = margins.train_curve(plan, names[2], pairs, checkpoint, tmp_path)
    assert curve.settings == {"objective": "product", "sum_steps": 2}
    assert len(curve.caption_margin) == len(curve.image_win_gain) == len(curve.grad_norm) == 3
    report = margins.Report(machine=train_step.machine(), plan=plan, curves=(curve,))
    path = tmp_path / "margins.json"
    path.write_bytes(msgspec.json.encode(report))
    assert margins.earlier(path, plan) == {names[2]: curve}
    assert margins.earlier(path, msgspec.structs.replace(plan, seed=1)) == {}


def test_a_store_of_many_pairs_is_read_back_whole(tmp_path: Path) -> None:
    row = one_size(100, tmp_path / "reference.zarr")
    assert (row.pairs, row.block) == (100, 32)
    assert row.memory_mib == pytest.approx(100 * (8 + 16 * 4) / 2**20)


def test_the_picture_of_objectives_is_flat_where_eq_6_is() -> None:
    captions, images, _, down, left = field(PANELS["product (Eq. 6)"], 5)
    flat = (down == 0) & (left == 0)
    assert np.argwhere(flat).tolist() == [[2, 2]]
    assert captions[2, 2] == images[2, 2] == 0.0
