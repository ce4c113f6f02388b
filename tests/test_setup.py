"""What `make setup` would install, by what the machine has; nothing is installed."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def planned(
    venv: Path, card: bool | None = None, *arguments: str, fails: bool = False
) -> subprocess.CompletedProcess[str]:
    """`make --dry-run setup` for an environment, on a machine with a card, or none, or as this one is."""
    environment = {key: value for key, value in os.environ.items() if key not in ("DEVICE", "MAKEFLAGS")}
    if card is not None:
        tools = venv.parent / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "nvidia-smi").write_text(f"#!/bin/sh\nexit {0 if card else 9}\n")
        (tools / "nvidia-smi").chmod(0o755)
        environment["PATH"] = f"{tools}:{environment['PATH']}"
    command = ["make", "--dry-run", "setup", f"VENV={venv}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert bool(done.returncode) == fails, done.stderr
    return done


def lock(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"-r requirements-(\w+)\.txt", done.stdout)


def test_the_lock_follows_the_card(tmp_path: Path) -> None:
    assert lock(planned(tmp_path / "venv", card=True)) == ["cuda"]
    assert lock(planned(tmp_path / "venv", card=False)) == ["cpu"]


def test_the_user_says_it_and_it_is_remembered(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    assert lock(planned(venv, True, "DEVICE=cpu")) == ["cpu"]
    (venv / "bin").mkdir(parents=True)
    (venv / ".ready-cpu").touch()
    # Up to date on a machine with a card: a later `make test` does not change its kind.
    assert lock(planned(venv, card=True)) == []


def test_an_environment_of_the_other_kind_is_emptied_first(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / ".ready-cpu").touch()
    done = planned(venv, True, "DEVICE=cuda")
    assert lock(done) == ["cuda"]
    assert done.stdout.index(f"venv --clear {venv}") < done.stdout.index("-r requirements-cuda.txt")


def test_another_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    done = planned(tmp_path / "venv", None, "DEVICE=rocm", fails=True)
    assert 'DEVICE is "rocm"; it is cpu or cuda' in done.stderr


@pytest.mark.parametrize("extra", ["cpu", "cuda"])
def test_the_locks_hold_what_the_extras_ask_for(extra: str) -> None:
    lines = (ROOT / f"requirements-{extra}.txt").read_text().splitlines()
    pins = dict(re.split("===?", line) for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in project["optional-dependencies"][extra]:
        name, version = wanted.split("==")
        assert pins[name].partition("+")[0] == version
    # Without its local version, else a CPU build would do.
    assert extra == "cpu" or "torch===2.13.0" in lines
    held = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    names = [re.split(r"[<>=\[]", one)[0] for one in project["dependencies"]]
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in names} <= held
