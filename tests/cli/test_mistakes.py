"""Mistakes at the command line: one clear line, status 1, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ConfigError
from hermes_cli.settings import parse_assignment, settle


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
        (("train",), "run `hermes curate --round 1` first"),
        (("train", "--round", "3"), "run `hermes curate --round 1` first"),
        (("curate", "--round", "2"), "run `hermes curate --round 1` first"),
        (("curate", "--round", "0"), "rounds count from 1"),
        (("curate", "--n", "1"), "a pair needs at least 2 candidates"),
        (("curate", "--max-bad", "some"), "give a share such as 1%"),
        (("curate", "--select", "5"), "say how many with --limit"),
        (("curate", "--data", "nowhere"), "no such file or folder"),
        (("curate", "--model", "nowhere"), "name a checkpoint folder with --model"),
        (("curate", "--set", "curate.candidates=4"), "unknown field `candidates`"),
        (("curate", "--set", "train.steps"), "write it as key=value"),
        (("curate", "--set", "train.steps=many"), "Expected `int`, got `str`"),
        (("curate", "--config", "missing.toml"), "missing.toml"),
        (("train", "--set", "train.beta=-1"), "beta"),
        (("train", "--set", "train.sum_steps=9"), "sum_steps come before product, softmin"),
        (("reference", "--set", "reference.ranks=0"), "ranks is 0, it must be at least 1"),
        (("reference", "--ranks", "2"), "run `hermes curate --round 1` first"),
        (
            ("curate", "--rules", "best"),
            "Invalid enum value 'best' - at `$.curate.rules`; it is one of official, paper",
        ),
        (
            ("run", "--reference", "previous,last"),
            "Invalid enum value 'last' - at `$.reference.policy[1]`; it is one of base, previous",
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


def test_a_refused_setting_leaves_the_stored_settings_alone(tmp_path: Path) -> None:
    assert hermes(tmp_path, "train", "--seed", "7").returncode == 1
    stored = (tmp_path / "runs/default/run.json").read_bytes()
    assert b'"seed": 7' in stored
    assert hermes(tmp_path, "train", "--set", "train.lr=1").returncode == 1
    assert (tmp_path / "runs/default/run.json").read_bytes() == stored


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


@pytest.mark.parametrize("setting", ["tensor_parallel=0", "max_sequences=0", "kv_cache_gib=-1"])
def test_an_engine_of_impossible_sizes_is_refused(setting: str) -> None:
    name = setting.partition("=")[0]
    with pytest.raises(ConfigError, match=f"engine: {name} is"):
        settle(parse_assignment(f"engine.{setting}"))
