"""Trackers say what the metrics say, once, whatever happens to the run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training import CONFIG, KilledError, die_at, run

from engine.errors import ConfigError
from train.config import TrainConfig
from train.logging.metrics import read_metrics, scalars
from train.logging.trackers import open_trackers

TRACKED = msgspec.structs.replace(CONFIG, trackers=("tensorboard",))


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_has_every_number_of_an_interrupted_run_once(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    out = tmp_path / "out"
    for step in (6, 11):
        with pytest.raises(KilledError):
            run(pairs_file, checkpoint, out, TRACKED, die_at(step))
    run(pairs_file, checkpoint, out, TRACKED)
    folder = tmp_path / "out.training"
    wanted: dict[str, list[tuple[int, float]]] = {}
    for step in read_metrics(folder / "metrics.jsonl"):
        for name, value in scalars(step).items():
            wanted.setdefault(name, []).append((step.step, value))
    found = points(folder / "tensorboard")
    assert found.keys() == wanted.keys()
    assert {"loss", "captions/margin", "images/win_gain", "grad_norm", "learning_rate"} <= wanted.keys()
    for name, series in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in series]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in series], rel=1e-6)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_one_line(tmp_path: Path, name: str) -> None:
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed here")
    config = TrainConfig(trackers=(name,))
    with pytest.raises(ConfigError, match=f"pip install {name}"), open_trackers(config, tmp_path, 0):
        pass


def test_a_rank_that_is_not_the_first_tracks_nothing(tmp_path: Path) -> None:
    with open_trackers(TRACKED, tmp_path, 0, rank=1) as trackers:
        assert trackers == ()
    assert not list(tmp_path.iterdir())
