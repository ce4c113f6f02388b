"""When `hermes run` stops before its last round."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_run import made_run
from typer.testing import CliRunner

from curate.evaluation.clustered import Estimate
from curate.evaluation.paired import Difference
from engine.errors import ConfigError
from hermes_cli.main import app
from hermes_cli.reporting.build import build_report
from hermes_cli.reporting.records import RoundReport
from hermes_cli.run.event_log import RunRequest
from hermes_cli.run.folder import RunFolder
from hermes_cli.stages.stopping import Goal, why_stop


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RoundReport:
    """The base of a run; rounds are made of it."""
    return build_report(RunFolder(made_run(tmp_path_factory.mktemp("run")), "")).rounds[0]


def rounds(base: RoundReport, *gaps: float) -> list[RoundReport]:
    """The base and rounds of these gaps, none of which loses anything against the base."""
    even = Estimate(0.0, 0.1, 1)
    versus = Difference(items=1, und=even, gen=even, gap=even)
    return [
        msgspec.structs.replace(base, round=number, gap=gap, versus_base=versus if number else None)
        for number, gap in enumerate(gaps)
    ]


def patient(patience: int) -> RunRequest:
    return RunRequest(rounds=9, patience=patience)


@given(
    st.sampled_from(["gap", "und", "gen"]),
    st.sampled_from("<>"),
    st.decimals(0, 1, places=3),
    st.text(" ", max_size=2),
)
def test_a_goal_is_read_as_it_is_written(measure: str, sign: str, value: object, space: str) -> None:
    goal = Goal.parse(f"{space}{measure}{space}{sign}{space}{value}{space}")
    assert goal == Goal(measure=measure, below=sign == "<", value=float(str(value)))
    assert Goal.parse(str(goal)) == goal


@pytest.mark.parametrize(
    "text", ["", "gap", "gap=0.1", "gap<", "loss<0.1", "gap<x", "gap<0.1 or und>1", "gap<-1"]
)
def test_what_is_no_goal_is_refused_and_stores_nothing(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one condition, such as gap<0"):
        Goal.parse(text)
    done = CliRunner().invoke(app, ["run", "--run", str(tmp_path / "run"), "--until", text])
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "run").exists()


def test_a_run_stops_at_the_first_round_that_reaches_its_goal(base: RoundReport) -> None:
    request = RunRequest(rounds=9, until=str(Goal.parse("gap<0.04")))
    whole = rounds(base, 0.03, 0.05, 0.039, 0.01)
    assert [bool(why_stop(request, whole[: n + 1])) for n in range(4)] == [False, False, True, True]
    assert why_stop(request, whole[:3]) == "round 2 reaches gap < 0.04 with 0.039"


def test_a_run_stops_when_so_many_rounds_brought_no_new_best(base: RoundReport) -> None:
    whole = rounds(base, 0.30, 0.20, 0.25, 0.21, 0.10)
    assert [bool(why_stop(patient(2), whole[: n + 1])) for n in range(5)] == [False] * 3 + [True, False]
    assert [bool(why_stop(patient(1), whole[: n + 1])) for n in range(3)] == [False, False, True]
    assert why_stop(patient(2), whole[:4]) == "round 1 is still the best after 2 more rounds"
    assert not why_stop(patient(0), whole)


def test_a_base_that_no_round_improves_on_counts_as_the_best(base: RoundReport) -> None:
    assert why_stop(patient(1), rounds(base, 0.1, 0.2)) == "the base is still the best after 1 more rounds"
