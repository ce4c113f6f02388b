"""Tiny checkpoints, and scripts that run Triton in its interpreter: a process each, on one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_showo import tiny_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints whose understanding sees codes and CLIP features."""
    root = tmp_path_factory.mktemp("tiny")
    return {name: tiny_checkpoint(root / name, name == "features") for name in ("codes", "features")}


@pytest.fixture(scope="session")
def interpreted() -> Callable[..., dict[str, Any]]:
    """Runs a script of tests/support with arguments; what it prints last, read as JSON."""

    def run(script: str, *arguments: str | Path) -> dict[str, Any]:
        path = ROOT / "tests" / "support" / script
        done = subprocess.run(
            [sys.executable, str(path), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
