"""Where generation gained, on measurements made by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from made_run import measured, save_evaluation
from PIL import Image

from benchmarks.experiment.diagnosis import parts
from benchmarks.experiment.diagnosis.inspected import finish
from curate.evaluation.records import CategoryGap, GapReport
from engine.errors import DataError


def of(weights: str, **gen: float) -> GapReport:
    """A measurement whose generation by objects is as given ("one=0.5")."""
    plain = measured(weights, [(2, 2, 2)] * 4)
    groups = {
        name: CategoryGap(und=1.0, und_se=0.0, gen=value, gen_se=0.1, gap=1 - value, items=4)
        for name, value in gen.items()
    }
    return msgspec.structs.replace(plain, by_objects=groups)


def save(run: Path, *reports: GapReport) -> Path:
    for number, report in enumerate(reports):
        save_evaluation(run, number, report)
    return run


def test_rounds_are_means_over_seeds_and_a_shared_base_stands_once(tmp_path: Path) -> None:
    base = of("base", one=0.5, two=0.25)
    save(tmp_path / "a/seed-0", base, of("x", one=0.75, two=0.25))
    save(tmp_path / "a/seed-1", base, of("y", one=1.0, two=0.5))
    save(tmp_path / "b/seed-0", base, of("z", one=0.25, two=0.25))
    save(tmp_path / "c", of("other", one=0.75, two=0.75))
    named = [("first", tmp_path / "a"), ("second", tmp_path / "b"), ("a model", tmp_path / "c")]
    found = parts.diagnose(named).recipes
    assert [one.label for one in found] == ["base of first", "first, round 1", "second, round 1", "a model"]
    assert [one.runs for one in found] == [2, 2, 1, 1]
    assert [[part.gen for part in one.objects] for one in found] == [
        [0.5, 0.25],
        [0.875, 0.375],
        [0.25, 0.25],
        [0.75, 0.75],
    ]


def test_a_round_that_a_seed_lacks_is_left_out(tmp_path: Path) -> None:
    base = of("base", one=0.5)
    save(tmp_path / "a/seed-0", base, of("x", one=0.75), of("w", one=0.875))
    save(tmp_path / "a/seed-1", base, of("y", one=0.5))
    found = parts.diagnose([("first", tmp_path / "a")]).recipes
    assert [one.round for one in found] == [0, 1]


def test_a_part_that_one_of_the_runs_lacks_is_left_out() -> None:
    both = [of("a", one=0.5, two=0.5).by_objects, of("b", one=0.25).by_objects]
    assert [part.name for part in parts.parts(both)] == ["one"]


def test_it_prints_writes_and_draws_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save(tmp_path / "run", of("base", one=0.5), of("x", one=0.75))
    given = ["parts", f"mine={run}", f"--to={tmp_path / 'a.json'}", f"--picture={tmp_path / 'a.png'}"]
    monkeypatch.setattr(sys, "argv", given)
    finish(parts.main)
    shown = capsys.readouterr().out
    assert "mine, round 1" in shown
    assert "0.750" in shown
    report = msgspec.json.decode((tmp_path / "a.json").read_bytes(), type=parts.Report)
    assert [one.round for one in report.recipes] == [0, 1]
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1000
    with pytest.raises(DataError, match="neither a run nor a folder of runs"):
        parts.diagnose([("none", tmp_path)])
