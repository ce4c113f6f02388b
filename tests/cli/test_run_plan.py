"""`hermes run --dry-run`: what is to be done, counted without doing it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_run import DEAD, made_run, save_events
from typer.testing import CliRunner

from engine.errors import ConfigError
from hermes_cli.main import app
from hermes_cli.plan.run import RunPlan, StagePlan, plan_run
from hermes_cli.run.event_log import Event, RunRequest
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import RunSettings, settle
from hermes_cli.stages.curate import training_source
from hermes_cli.stages.evaluate import held_out_source

SMALL = {
    "curate": {"n": 4, "limit": 6, "similarity": "minilm"},
    "train": {"steps": 10, "batch_size": 2, "warmup": 1, "save_every": 4, "num_masks": 2},
    "eval": {"limit": 5, "images": 3},
}


def settings_of(**more: object) -> RunSettings:
    return settle({**SMALL, **more})


def plan_of(run: Path, settings: RunSettings, rounds: int) -> RunPlan:
    folder = RunFolder(run, settings.model)
    sources = training_source(settings), held_out_source(settings)
    return plan_run(folder, settings, RunRequest(rounds=rounds), *sources)


def stage(plan: RunPlan, number: int, name: str) -> StagePlan:
    return next(one for one in plan.stages if (one.round, one.stage) == (number, name))


def test_a_dry_run_writes_nothing_and_prints_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--rounds", "2", "--n", "4", "--limit", "6", "--reference", "previous,base", "--ranks", "2"]
    done = CliRunner().invoke(app, ["run", "--dry-run", *given, "--set", "eval.limit=5"])
    assert done.exit_code == 0, done.output
    assert not list(tmp_path.iterdir())
    printed = " ".join(done.output.split())
    assert "2 rounds, 2 ranks" in printed
    assert "against previous, base" in printed
    assert printed.count("24 captions, 24 images") == 2
    assert "time unknown until the first round has run" in printed
    assert "KV cache" in printed
    assert "training: 2 ranks" in printed
    assert "Nothing was started" in printed


def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", "--dry-run", "--run", str(tmp_path / "run"), "--ranks", "3"])
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "run").exists()


def test_samples_are_those_of_settings_and_data(tmp_path: Path) -> None:
    settings = settings_of()
    plan = plan_of(tmp_path, settings, 1)
    questions = sum(len(item.questions) for item in training_source(settings).items())
    asked = sum(len(item.questions) for item in held_out_source(settings).items())
    assert stage(plan, 1, "curate").work == {
        "captions": 24,
        "images": 24,
        "answers": 4 * questions,
    }
    assert stage(plan, 1, "eval").work == {"images": 15, "answers": asked}
    assert stage(plan, 0, "eval").work == stage(plan, 1, "eval").work
    assert stage(plan, 1, "reference").work == {"preferences": 6}
    assert stage(plan, 1, "train").work == {"steps": 10}
    assert plan.seconds is None


def test_what_is_done_costs_nothing_and_finished_stages_tell_the_time(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    for number in (1, 2):
        (run / f"round-{number}/reference.zarr").mkdir()
        times = {"curate": 9.0, "reference": 1.5, "train": 2.0 * number, "eval": 4.0}
        counts = {"curate": 3, "reference": 3, "train": 4, "eval": 20}
        for name, took in times.items():
            save_events(run, Event(number, name, "done", done=counts[name], seconds=took))
    settings = settings_of(eval={})
    plan = plan_of(run, settings, 3)
    assert [one.state for one in plan.stages if one.round < 3] == ["done"] * 9
    seconds = {one.stage: one.seconds for one in plan.stages if one.round == 3}
    # Rounds 1 and 2 had 3 items and took 4 steps; the latest tells. 20 items were evaluated in 4 s.
    held_out = len(held_out_source(settings).items())
    assert seconds == {
        "curate": pytest.approx(18), "reference": pytest.approx(3), "train": pytest.approx(10),
        "eval": pytest.approx(held_out * 4 / 20),
    }  # fmt: skip
    assert plan.seconds == pytest.approx(sum(seconds.values()))


def test_of_a_curation_that_was_cut_off_the_rest_is_left(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    (run / "round-2/curate/curate.json").unlink()
    save_events(run, Event(2, "curate", "begun", process=DEAD))
    save_events(run, Event(2, "curate", "progress", done=3, total=6))
    plan = plan_of(run, settings_of(), 2)
    found = stage(plan, 2, "curate")
    assert (found.state, found.work["captions"], found.work["images"]) == ("stopped", 12, 12)
    assert stage(plan, 2, "reference").work["preferences"] == 3, "its pairs are there"
