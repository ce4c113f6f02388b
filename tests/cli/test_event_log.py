"""What a run writes down of itself, and what `hermes status` and `hermes report` make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_run import DEAD, made_run, save_events
from typer.testing import CliRunner

from engine.errors import BusyError
from hermes_cli.main import app
from hermes_cli.run.event_log import (
    Event,
    RunRequest,
    StageLog,
    log_event,
    logged,
    read_events,
)
from hermes_cli.run.folder import RunFolder
from hermes_cli.run.state import state


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = made_run(tmp_path / "run")
    for number in (1, 2):
        (made / f"round-{number}/reference.zarr").mkdir()
    return made


def told(run: Path, *arguments: str, command: str = "status") -> str:
    done = CliRunner().invoke(app, [command, str(run), *arguments])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def status(run: Path) -> dict[str, Any]:
    return json.loads(told(run, "--json"))  # type: ignore[no-any-return]


def seconds(run: Path, number: int, **stages: float) -> None:
    counts = {"curate": 3, "reference": 3, "train": 4, "eval": 20}
    for stage, took in stages.items():
        save_events(run, Event(number, stage, "done", done=counts[stage], seconds=took))


def ask(run: Path, ended: str = "", **request: Any) -> None:
    save_events(run, Event(0, "run", "begun", request=RunRequest(**request)))
    if ended:
        save_events(run, Event(0, "run", "done", reason=ended))


@given(st.lists(st.integers(0, 60), max_size=4))
def test_a_torn_line_costs_itself_alone(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    log = tmp_path_factory.mktemp("run") / "events.jsonl"
    whole = 0
    for cut in cuts:
        log_event(log, Event(whole, "train", "begun", reason="two\nlines"))
        whole += 1
        with log.open("ab") as stream:
            stream.write(b'{"time":1,"round":77,"stage":"train","event":"begun","reason":"x"}'[:cut])
    log_event(log, Event(whole, "train", "done"))
    found = [one for one in read_events(log) if one.round != 77]
    assert [one.round for one in found] == list(range(whole + 1))
    assert all("\n" not in one.reason for one in found)


def test_a_stage_that_was_killed_is_cut_off_and_the_last_one_is_open() -> None:
    def line(when: float, number: int, stage: str, event: str, **more: Any) -> Event:
        return msgspec.convert({"time": when, "round": number, "stage": stage, "event": event, **more}, Event)

    found = state(
        [
            line(0, 0, "run", "begun", reason="2 rounds"),
            line(1, 1, "curate", "begun"),
            line(5, 0, "run", "begun"),
            line(6, 1, "curate", "begun"),
            line(9, 1, "curate", "done", weights="aa"),
            line(10, 1, "train", "begun"),
            line(12, 1, "train", "failed", reason="no memory"),
            line(13, 1, "swap", "swapped", engine=1),
            line(14, 1, "eval", "begun", process=DEAD),
            line(15, 2, "curate", "begun", process=DEAD),
            line(16, 2, "curate", "progress"),
        ],
        alive=lambda process: False,
    ).attempts
    assert [(one.first.stage, one.end, one.took) for one in found] == [
        ("run", "cut off", None),
        ("curate", "cut off", None),
        ("run", "failed", 7),
        ("curate", "done", 3),
        ("train", "failed", 2),
        ("swap", "swapped", None),
        ("eval", "cut off", None),
        ("curate", "cut off", None),
    ]
    assert state([line(14, 1, "eval", "begun", process=DEAD)], lambda process: True).attempts[0].end == "open"
    assert found[3].last.weights == "aa"
    assert found[4].last.reason == "no memory"


def test_a_stage_says_when_it_begins_and_how_it_ends(tmp_path: Path) -> None:
    log = tmp_path / "run/events.jsonl"
    with logged(log, 1, "train") as stage:
        stage.weights = "cafe"
    with pytest.raises(BusyError), logged(log, 2, "curate"):
        raise BusyError("somebody\nelse")
    with pytest.raises(KeyboardInterrupt), logged(log, 2, "curate"):
        raise KeyboardInterrupt
    found = [(one.round, one.stage, one.event, one.weights, one.reason) for one in read_events(log)]
    assert found == [
        (1, "train", "begun", "", ""),
        (1, "train", "done", "cafe", ""),
        (2, "curate", "begun", "", ""),
        (2, "curate", "failed", "", "somebody else"),
        (2, "curate", "begun", "", ""),
        (2, "curate", "stopped", "", "interrupted"),
    ]


def test_the_time_of_a_killed_stage_counts_up_to_the_last_that_it_said(run: Path) -> None:
    folder = RunFolder(run, "")
    seconds(run, 2, train=10.0)
    save_events(run, Event(2, "train", "begun", process=DEAD, seconds=10.0))
    save_events(run, Event(2, "train", "progress", seconds=40.0))
    assert folder.seconds(2)["train"] == 40
    for _ in range(2):
        with logged(folder.events, 2, "train"):
            pass
        assert folder.seconds(2)["train"] == pytest.approx(40, abs=1), "once"
    with logged(folder.events, 2, "eval", resumes=False):
        pass
    assert folder.seconds(2)["eval"] == pytest.approx(0, abs=1), "an evaluation begins anew"


def test_progress_is_written_at_once_and_then_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, now = tmp_path / "events.jsonl", 50.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stage = StageLog(log, 1, "train", resumes=True, total=None)
    for step in range(86_400):
        stage.reached(step + 1, 86_400)
        now += 1
    found = [one.done for one in read_events(log)]
    assert found[:100] == list(range(1, 101))
    assert 700 < len(found) < 900


def test_rounds_that_were_asked_for_wait_and_finished_ones_tell_how_long_they_take(run: Path) -> None:
    seconds(run, 0, eval=5.0)
    for number in (1, 2):
        seconds(run, number, curate=10.0 * number, reference=1.0, train=8.0, eval=4.0)
    ask(run, rounds=4)
    (run / "run.json").write_text(json.dumps({"train": {"steps": 6, "warmup": 1}}))
    found = status(run)
    assert [one["round"] for one in found["rounds"]] == [0, 1, 2, 3, 4]
    assert {one["state"] for each in found["rounds"][3:] for one in each["stages"]} == {"waiting"}
    # As many items as in round 2, the latest; its 4 steps took 8 s, and 6 are to come in each round.
    assert found["eta_seconds"] == pytest.approx(2 * (20 + 1 + 12 + 4))
    assert "asked for 4 rounds: ~1:14 left" in told(run)
    ask(run, rounds=4, until="gap < 0.04", patience=2)
    assert "asked for 4 rounds, until gap < 0.04, patience 2: ~1:14 left at most" in told(run)


def test_a_round_that_is_half_done_needs_the_rest_of_its_time(run: Path) -> None:
    for number in (1, 2):
        seconds(run, number, curate=10.0, reference=1.0, train=8.0, eval=4.0)
    (run / "round-2/checkpoint/model.safetensors").unlink()
    (run / "round-2/eval.json").unlink()
    ask(run, rounds=2)
    save_events(run, Event(2, "train", "begun", process=DEAD))
    save_events(run, Event(2, "train", "progress", done=1, total=4))
    assert status(run)["eta_seconds"] == pytest.approx(8 * 3 / 4 + 4)


def test_without_a_finished_round_nobody_knows_how_long_it_takes(tmp_path: Path) -> None:
    ask(tmp_path, rounds=3)
    (tmp_path / "run.json").write_text("{}")
    found = status(tmp_path)
    assert [one["round"] for one in found["rounds"]] == [0, 1, 2, 3]
    assert found["eta_seconds"] is None
    assert "unknown until a round has run" in told(tmp_path)


def test_a_run_that_has_ended_waits_for_nothing(run: Path) -> None:
    ask(run, rounds=9, ended="stopped after round 2: it is good")
    reason = "too large; the old weights keep serving"
    save_events(run, Event(2, "swap", "failed", weights="cafe", reason=reason))
    found = status(run)
    assert [one["round"] for one in found["rounds"]] == [0, 1, 2]
    assert (found["eta_seconds"], found["last"]["stage"]) == (0, "swap")
    assert "asked for 9 rounds: stopped after round 2: it is good" in told(run)
    assert told(run).endswith("round 2 swap failed, weights cafe: too large; the old weights keep serving")


def test_the_page_tells_what_happened_and_what_was_cut_off(run: Path) -> None:
    (run / "events.jsonl").unlink()
    save_events(run, Event(1, "train", "begun"), Event(1, "train", "begun"))
    save_events(run, Event(1, "train", "done", weights="cafe"))
    save_events(run, Event(1, "swap", "failed", engine=0, reason="<b>too large</b>"))
    told(run, command="report")
    page = (run / "report.html").read_text()
    assert "What happened when" in page
    assert "3 entries, 2 of which did not come to their end" in page
    assert "&lt;b&gt;too large&lt;/b&gt;" in page


def test_a_second_run_in_the_same_folder_is_turned_away(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "")
    with folder.held(), pytest.raises(BusyError, match="another `hermes run`"), folder.held():
        pass
    with folder.held():
        pass
