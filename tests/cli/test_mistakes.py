"""Mistakes at the command line: one clear line, status 1, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def hermes(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hermes_cli.main", *arguments],
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
        (("curate", "--round", "2"), "run `hermes curate --round 1` first"),
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
