"""The training benchmarks run on a tiny shape, and compare like with like; no claim about time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed import train_step, workload
from benchmarks.speed.model_sizes import config_of
from train.distributed.policy import process_group


def test_both_sides_of_a_step_have_the_same_losses_and_move(tmp_path: Path) -> None:
    plan = train_step.StepSettings(shape="tiny", batch=2, masks=2, longest=10, repeats=3, warmups=0)
    work = train_step.StepWork(plan, tmp_path)
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
    found = workload.preferences(config, 5, 10, seed=1)
    assert found == workload.preferences(config, 5, 10, seed=1)
    assert found != workload.preferences(config, 5, 10, seed=2)
    for one in found:
        assert one.captions
        assert one.images
        assert len(one.images.win.codes) == config.num_image_tokens
        assert 8 <= len(one.captions.lose.token_ids) <= 10
