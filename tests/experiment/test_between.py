"""Weights between a base and a checkpoint: made, measured, drawn."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from made_run import IMAGES, measured
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.experiment.diagnosis import interpolation
from benchmarks.experiment.diagnosis.inspected import finish
from engine.checkpoints.weights import load_model
from engine.files.layout import WEIGHTS, resolve_model


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """The embedded model with weights that are all a little larger."""
    folder = tmp_path / "moved"
    shutil.copytree(resolve_model(""), folder)
    grown = {name: 1.05 * value.float() for name, value in load_file(folder / WEIGHTS).items()}
    save_file(grown, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0, 2.0])
def test_weights_lie_on_the_line_also_beyond_the_checkpoint(
    tmp_path: Path, moved: Path, alpha: float
) -> None:
    folder = interpolation.between(resolve_model(""), moved, alpha, tmp_path)
    load_model(folder)
    before = load_file(resolve_model("") / WEIGHTS)
    for name, value in load_file(folder / WEIGHTS).items():
        torch.testing.assert_close(value, (1 + 0.05 * alpha) * before[name].float(), rtol=1e-5, atol=1e-6)
    assert interpolation.between(resolve_model(""), moved, alpha, tmp_path) == folder


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, moved: Path) -> None:
    kept = load_file(moved / WEIGHTS)
    kept.pop(next(iter(kept)))
    save_file(kept, moved / WEIGHTS)
    with pytest.raises(Exception, match="not those of a training from"):
        interpolation.between(resolve_model(""), moved, 0.5, tmp_path)


def test_gains_are_over_the_base_and_the_cut_is_of_its_gap() -> None:
    base = measured("a", [(8, IMAGES * 4, 8)] * 6)
    found = interpolation.point(0.5, base, measured("a", [(7, IMAGES * 5, 8)] * 6))
    assert (found.und.value, found.gen.value) == (7 / 8, 5 / 8)
    assert (found.und_gained.value, found.gen_gained.value) == (-1 / 8, 1 / 8)
    # The base's gap is 4 of 8, this one's 2.
    assert found.cut == 0.5


def test_the_line_is_measured_once_and_drawn(
    tmp_path: Path, moved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = [f"--{name.removesuffix('.png')}={tmp_path / name}" for name in ("to", "picture.png", "scratch")]
    named = [f"embedded={resolve_model('')}", f"moved={moved}"]
    monkeypatch.setattr(sys, "argv", ["interpolation", *named, "--alphas=0,1", "--limit=4", *to])
    finish(interpolation.main)
    # The base, and both ends of the line: its beginning is another folder of the same weights.
    assert capsys.readouterr().out.count(": done in ") == 3
    report = msgspec.json.decode((tmp_path / "to").read_bytes(), type=interpolation.Report)
    (line,) = report.lines
    assert [one.alpha for one in line.points] == [0.0, 1.0]
    assert line.points[0].und_gained.value == line.points[0].gen_gained.value == line.points[0].cut == 0.0
    assert line.points[1].gen_gained.value != 0
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 1000
    finish(interpolation.main)
    assert "done in" not in capsys.readouterr().out


def test_a_base_alone_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["interpolation", f"base={resolve_model('')}"])
    with pytest.raises(SystemExit, match="diagnosis: one checkpoint alone"):
        finish(interpolation.main)
