"""`python -m benchmarks.parity`: recorded arrays of the reference implementation against this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def golden() -> Path:
    """The folder of golden arrays."""
    return ROOT / "tests" / "golden"


def parity(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.parity", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)


def copy(golden: Path, to: Path, *names: str) -> Path:
    to.mkdir()
    for name in ("config.json", "cases.json", "tokenizer.json", "weights.safetensors", *names):
        (to / name).write_bytes((golden / name).read_bytes())
    return to


def test_every_recorded_case_is_reproduced_and_served(golden: Path, tmp_path: Path) -> None:
    done = parity("--golden", str(golden), "--json", str(tmp_path / "parity.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = msgspec.json.decode((tmp_path / "parity.json").read_bytes())
    assert {row["case"] for row in rows} == {
        *(path.stem for path in golden.glob("case*.npz")),
        "served by vLLM",
    }
    assert "skipped" not in done.stdout


def test_other_weights_exceed_the_tolerance_and_missing_cases_are_named(golden: Path, tmp_path: Path) -> None:
    folder = copy(golden, tmp_path / "golden", "case1_mmu.npz", "case6_mask.npz")
    weights = load_file(folder / "weights.safetensors")
    weights["showo.lm_head.bias"] = weights["showo.lm_head.bias"] + torch.tensor(2e-4)
    save_file(weights, folder / "weights.safetensors")
    done = parity("--golden", str(folder))
    assert done.returncode == 1
    exceeded = [line for line in done.stdout.splitlines() if line.endswith("EXCEEDED")]
    assert [line.split()[:2] for line in exceeded] == [["case1_mmu", "logits"]]
    assert "skipped: case7_magvit" in done.stdout
    assert "skipped: served by vLLM" in done.stdout


def test_a_folder_without_sizes_or_cases_is_one_clear_line(golden: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = parity("--golden", str(empty))
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == f"error: {empty}: no config.json here; --golden wants a folder of recorded arrays"
    )
    shutil.copyfile(golden / "config.json", empty / "config.json")
    done = parity("--golden", str(empty))
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: {empty}: no case was compared"
