"""The training configuration refuses what it cannot mean."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from train.config import TrainConfig


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": 0.0},
        {"beta": float("nan")},
        {"steps": 0},
        {"warmup": 100},
        {"warmup": -1},
        {"keep": 0},
        {"masks_per_step": 5},
        {"weight_decay": -0.1},
        {"objective": "und", "image_weight": 0.0},
        {"objective": "softmin", "caption_weight": 0.0},
        {"sum_steps": 10},
        {"objective": "product", "sum_steps": 100},
        {"objective": "product", "sum_steps": -1},
        {"text_dropout": 1.0},
        {"text_dropout": -0.1},
        {"max_epochs": -1.0},
        {"caption_weight": 0.0, "image_weight": 0.0},
    ],
)
def test_values_out_of_range_are_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**wrong)
    assert any(name in str(caught.value) for name in wrong)


def test_a_mistyped_setting_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="learning_rat"):
        msgspec.json.decode(b'{"learning_rat": 1e-4}', type=TrainConfig)


def test_the_rate_warms_up_to_its_peak_and_falls_to_almost_nothing() -> None:
    config = TrainConfig(steps=100, warmup=10, learning_rate=1.0)
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-3


@given(st.integers(1, 500), st.integers(1, 64), st.floats(0.1, 20), st.integers(1, 5000))
def test_no_preference_is_taken_more_often_than_allowed_but_for_the_last_step(
    steps: int, batch: int, most: float, count: int
) -> None:
    config = TrainConfig(steps=steps, batch_size=batch, max_epochs=most).for_preferences(count)
    assert 1 <= config.steps <= steps
    assert (config.steps - 1) * batch < most * count
    assert config.steps == steps or config.steps * batch >= most * count
    assert config.for_preferences(1) == config


def test_without_a_bound_the_number_of_preferences_does_not_matter() -> None:
    assert TrainConfig(steps=100).for_preferences(1) == TrainConfig(steps=100)


def test_the_objective_is_a_function_of_the_step() -> None:
    config = TrainConfig(objective="product", sum_steps=2)
    assert [config.objective_at(step) for step in range(4)] == ["sum", "sum", "product", "product"]
    assert TrainConfig().objective_at(0) == "sum"


@given(st.integers(1, 5000))
def test_a_warmup_that_is_not_given_fits_any_number_of_steps(steps: int) -> None:
    config = TrainConfig(steps=steps, learning_rate=1.0)
    assert config.warmup_steps == min(10, steps // 10)
    assert config.learning_rate_at(config.warmup_steps) == 1.0
    assert 0 < config.learning_rate_at(steps - 1) <= 1.0


def test_a_constant_schedule_stays_at_its_peak_after_the_warmup() -> None:
    config = TrainConfig(steps=20, warmup=4, schedule="constant", learning_rate=1.0)
    assert [config.learning_rate_at(step) for step in range(20)] == [0.25, 0.5, 0.75] + [1.0] * 17


def test_objectives_use_only_the_sides_that_they_weigh() -> None:
    assert not TrainConfig(objective="und").uses_images
    assert not TrainConfig(objective="gen").uses_captions
    assert not TrainConfig(caption_weight=0.0).uses_captions
    assert TrainConfig(objective="product").uses_captions


def test_a_scaled_rate_is_the_papers_at_its_width_and_grows_as_models_get_narrow() -> None:
    config = TrainConfig(mup_lr=True)
    assert config.for_width(2048).learning_rate == TrainConfig().learning_rate
    narrow = config.for_width(160)
    assert narrow.learning_rate == pytest.approx(2.56e-4)
    assert narrow.for_width(160) == narrow
    assert TrainConfig().for_width(160) == TrainConfig()
