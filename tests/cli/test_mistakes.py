"""Mistakes at the command line: one clear line, status 1, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hermes_cli.run.event_log import Event, log_event, read_events


def hermes(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hermes_cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train",), "no run in this folder"),
        (("eval", "--run", "TYPO"), "TYPO: no run in this folder"),
        (("pairs", "TYPO"), "TYPO: no run in this folder"),
        (("curate", "--round", "2"), "run `hermes curate --round 1 --run runs/default` first"),
        (("curate", "--round", "0"), "rounds count from 1"),
        (("curate", "--n", "1"), "a pair needs at least 2 candidates"),
        (("curate", "--max-bad", "some"), "give a share such as 1%"),
        (("curate", "--select", "5"), "say how many with --limit"),
        (("curate", "--data", "nowhere"), "no such file or folder"),
        (("curate", "--model", "nowhere"), "name a checkpoint folder with --model"),
        (("curate", "--set", "curate.candidates=4"), "there is no setting curate.candidates"),
        (("curate", "--set", "train.steps"), "write it as key=value"),
        (("curate", "--set", "train.steps=many"), "train.steps is 'many'; it must be a whole number"),
        (("curate", "--config", "missing.toml"), "--config missing.toml: cannot be read: No such file"),
        (("curate", "--set", "train.beta=-1"), "beta"),
        (("curate", "--set", "train.sum_steps=9"), "sum_steps come before product, softmin"),
        (("curate", "--set", "reference.ranks=0"), "ranks is 0, it must be at least 1"),
        (("reference", "--ranks", "2"), "no run in this folder"),
        (
            ("curate", "--rules", "best"),
            "curate.rules is 'best'; it is one of official, paper",
        ),
        (
            ("run", "--reference", "previous,last"),
            "reference.policy[1] is 'last'; it is one of base, previous",
        ),
        (("run", "--ranks", "3"), "batch_size is 32"),
        (("run", "--set", "train.device=cuda"), "train.device is cuda, and torch finds no GPU here"),
        (("curate", "--similarity", "nowhere"), "nowhere: no model in this folder"),
        (("run", "--similarity", "bert-cls:nowhere"), "nowhere: no model in this folder"),
        (("curate", "--set", "curate.judge.url=file:///x"), "starts with http:// or https://"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = hermes(tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("hermes: ")
    assert done.stderr.strip().count("\n") == 0
    assert words in done.stderr
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"


def test_a_run_is_named_either_way_and_a_folder_of_data_is_none(tmp_path: Path) -> None:
    for given in (("mine",), ("--run", "mine")):
        for command in ("pairs", "inspect"):
            done = hermes(tmp_path, command, *given)
            assert done.returncode == 1
            assert "mine: " in done.stderr
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.csv").touch()
    assert "--data names data" in hermes(tmp_path, "curate", "photos").stderr
    assert [one.name for one in (tmp_path / "photos").iterdir()] == ["a.csv"]


def test_names_of_our_packages_are_ours(tmp_path: Path) -> None:
    """A user's files of these names lie where she types, or come first in PYTHONPATH."""
    for name in ("train", "json", "typer"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user runs')\n")
    asked = [sys.executable, "-m", "hermes_cli", "status"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "no run in this folder" in done.stderr
    for name in ("json", "typer"):
        (tmp_path / f"{name}.py").unlink()
    (tmp_path / "elsewhere").mkdir()
    after = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *after])}
    done = subprocess.run(
        asked, cwd=tmp_path / "elsewhere", env=variables, capture_output=True, text=True, check=False
    )
    assert done.stderr == (
        f"hermes: {tmp_path}/train.py hides the package `train` of Hermes; take its folder from PYTHONPATH\n"
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_ends_nothing(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ru\N{SNOWMAN}n").mkdir()
    (tmp_path / "ru\N{SNOWMAN}n/run.json").write_text("{}")
    variables = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    asked = [sys.executable, "-m", "hermes_cli", "status", "ru\N{SNOWMAN}n"]
    done = subprocess.run(asked, cwd=tmp_path, env=variables, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"ru\u2603n" in done.stdout


@pytest.mark.parametrize("asked", [("-h",), ("help",), ("help", "curate"), ("--version",)])
def test_help_and_version_answer_where_people_look(tmp_path: Path, asked: tuple[str, ...]) -> None:
    done = hermes(tmp_path, *asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("hermes 0." if asked == ("--version",) else "Usage: ") in done.stdout


@pytest.mark.parametrize(("command", "number"), [("curate", 1), ("train", 1), ("eval", 0), ("run", 0)])
def test_a_second_process_is_told_who_is_at_work_and_leaves_no_trace(
    tmp_path: Path, command: str, number: int
) -> None:
    run = tmp_path / "run"
    log_event(run / "events.jsonl", Event(number, command, "begun"))
    done = hermes(tmp_path, command, "--run", "run", "--set", "seed=5")
    assert done.returncode == 1
    assert f"process {os.getpid()} is at work on {command}" in done.stderr
    assert [one.name for one in run.iterdir()] == ["events.jsonl"]
    assert len(read_events(run / "events.jsonl")) == 1


def test_a_folder_without_a_listing_is_refused_before_the_engine_starts(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    done = hermes(tmp_path, "curate", "--data", "photos")
    assert done.returncode == 1
    assert "nothing here that --data takes" in done.stderr
    assert "items.jsonl" in done.stderr
    assert "starting the engine" not in done.stdout


def test_help_needs_no_heavy_library(tmp_path: Path) -> None:
    probe = (
        "import sys; from hermes_cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'vllm', 'transformers', 'deepspeed', 'numpy', 'zarr'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "curate" in done.stdout
