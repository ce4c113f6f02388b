"""Data without any question, as a user types commands on it: the gap is unknown, and all else goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from data_sets import folder_with_image, write_lines
from made_run import made_run
from typer.testing import CliRunner

from engine.errors import ConfigError, HermesError
from hermes_cli.main import app

UNKNOWN = "the gap is unknown: no held-out item of"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten items of which two are held out."""
    names = [f"{i}.png" for i in range(10)]
    folder = folder_with_image(tmp_path / "photos", *names)
    write_lines(folder / "items.jsonl", [{"image": name, "caption": f"c {name}"} for name in names])
    return folder


def hermes(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def refused(*arguments: object) -> str:
    done = hermes(*arguments)
    assert isinstance(done.exception, ConfigError), done.output
    return str(done.exception)


def status(run: Path) -> list[dict[str, Any]]:
    found = json.loads(hermes("status", run, "--json").output)
    return [stage for one in found["rounds"] for stage in one["stages"] if stage["stage"] == "eval"]


def test_an_evaluation_says_that_the_gap_is_unknown_and_is_no_failure(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    for _ in range(2):
        done = hermes("eval", "--run", run, "--data", data)
        assert done.exit_code == 0, done.output
        printed = " ".join(done.output.split())
        assert UNKNOWN in printed
        assert "hermes questions" in printed
        assert "0.000" not in printed
    (base,) = status(run)
    assert (base["state"], base["note"], base["total"]) == ("skipped", "no questions", None)
    assert len((run / "events.jsonl").read_text().splitlines()) == 1, "it is said once"
    report = json.loads((run / "report.json").read_text())
    assert (report["rounds"], report["best"], len(report["notes"])) == ([], None, 1)
    assert not (run / "best.json").exists()


def test_a_plan_says_what_is_left_out(data: Path, tmp_path: Path) -> None:
    done = hermes("run", "--dry-run", "--run", tmp_path / "run", "--data", data, "--n", "4", "--limit", "5")
    assert done.exit_code == 0, done.output
    printed = " ".join(done.output.split())
    assert UNKNOWN in printed
    assert "20 captions, 0 images, 0 answers" in printed
    assert "objective sum on captions alone" in printed
    assert printed.count("skipped") == 2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--until", "gap<0.1"), "--until gap < 0.1 cannot be told: the gap is unknown"),
        (("--patience", "2"), "--patience 2 cannot be told: the gap is unknown"),
        (("--set", "train.objective=gen"), "train.objective gen needs image pairs, and no item of"),
        (("--set", "train.objective=product"), "train.objective product needs image pairs"),
        (("--rules", "official"), "curate.rules official needs image pairs"),
    ],
)
@pytest.mark.parametrize("how", [(), ("--dry-run",)])
def test_what_needs_questions_is_refused_before_anything_starts(
    data: Path, tmp_path: Path, asked: tuple[str, ...], words: str, how: tuple[str, ...]
) -> None:
    assert words in refused("run", "--run", tmp_path / "run", "--data", data, "--rounds", "3", *asked, *how)
    assert not (tmp_path / "run/round-1").exists()


def test_what_was_measured_before_stays_measured(tmp_path: Path, data: Path) -> None:
    run = made_run(tmp_path / "run")
    before = (run / "round-2/eval.json").read_bytes()
    done = hermes("eval", "--run", run, "--data", data)
    assert done.exit_code == 0 or isinstance(done.exception, HermesError)
    assert (run / "round-2/eval.json").read_bytes() == before
