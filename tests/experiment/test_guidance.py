"""Which guidance checkpoints want, on made-up measurements and on the embedded model."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from made_run import IMAGES, measured
from PIL import Image

from benchmarks.experiment.diagnosis import guidance
from benchmarks.experiment.diagnosis.inspected import finish
from curate.evaluation.records import GapReport
from engine.files.layout import resolve_model


def of(right: int) -> GapReport:
    """Six items: all read rightly, so many of 8 answers about their images right."""
    return measured("a", [(8, IMAGES * right, 8)] * 6)


def test_a_checkpoint_is_held_against_the_base_at_the_bases_weight_and_at_its_own() -> None:
    base = {0.0: of(1), 1.0: of(4), 2.0: of(3)}
    after = {0.0: of(6), 1.0: of(5), 2.0: of(2)}
    first, second = guidance.curves(["base", "after"], [base, after])
    assert (first.best, second.best) == (1.0, 0.0)
    assert [point.gen.value for point in second.points] == [6 / 8, 5 / 8, 2 / 8]
    assert first.gained is first.cut is None
    assert second.gained is not None
    assert second.gained_best is not None
    assert (second.gained.value, second.gained_best.value) == (1 / 8, 2 / 8)
    # The base's gap is 4 of 8.
    assert (second.cut, second.cut_best) == (0.25, 0.5)


def test_of_weights_that_are_equally_good_the_lower_is_best() -> None:
    (found,) = guidance.curves(["base"], [{2.0: of(4), 0.5: of(4), 1.0: of(3)}])
    assert found.best == 0.5
    assert [point.guidance for point in found.points] == [0.5, 1.0, 2.0]


def test_the_embedded_model_is_measured_once_under_each_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = [f"--{name.removesuffix('.png')}={tmp_path / name}" for name in ("to", "picture.png", "scratch")]
    given = ["guidance", f"embedded={resolve_model('')}", "--guidance=1,0", "--limit=4", *to]
    monkeypatch.setattr(sys, "argv", given)
    finish(guidance.main)
    assert capsys.readouterr().out.count(": done in ") == 2
    report = msgspec.json.decode((tmp_path / "to").read_bytes(), type=guidance.Report)
    (curve,) = report.curves
    assert [point.guidance for point in curve.points] == [0.0, 1.0]
    assert {point.gen.count for point in curve.points} == {4}
    assert curve.points[0].gen != curve.points[1].gen
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 1000
    finish(guidance.main)
    assert "done in" not in capsys.readouterr().out


@pytest.mark.parametrize(("text", "told"), [("1,much", "give numbers"), (",", "names no number")])
def test_weights_that_are_none_are_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["guidance", "a=b", f"--guidance={text}"])
    with pytest.raises(SystemExit, match=f"diagnosis: --guidance.*{told}"):
        finish(guidance.main)
