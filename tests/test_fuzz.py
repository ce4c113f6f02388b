"""Files of every format that users give, damaged at random: read, refused or quarantined, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fuzzing
import pytest

MANY = 1500
MOST_MEMORY = 3 << 30
"""Bytes of a process that has torch, pyarrow and Pillow loaded and reads damaged files."""


@pytest.mark.parametrize("name", fuzzing.FORMATS)
def test_a_damaged_file_is_read_or_refused_in_our_words(name: str) -> None:
    counts = fuzzing.run(name, 4 if name == "config" else 40, seed=0)
    assert counts.get(fuzzing.REFUSED, 0) + counts.get(fuzzing.QUARANTINED, 0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzzing.FORMATS)
def test_many_damaged_files_neither_end_the_process_nor_fill_its_memory(name: str) -> None:
    command = [sys.executable, str(Path(fuzzing.__file__)), name, str(MANY), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["peak"] < MOST_MEMORY
