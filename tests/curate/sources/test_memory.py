"""Reading 100,000 rows takes little memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = 100_000
BOUND = 32 << 20
"""Bytes. The set of ids takes 10 to 14 MiB of it, batches and buffers the rest."""
CAPTION = "a red cube to the left of a blue sphere, under a yellow cone, seen from above; number {}; " * 4
PROBE = """
import sys
from collections import deque
from curate.sources import load_source, open_source

def peak():
    status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(status["VmHWM"].split()[0]) << 10

source = open_source(sys.argv[1], "", 0, 48)
before = peak()
for what in sys.argv[2:]:
    if what == "select":
        kept = load_source(sys.argv[1], "", 0, 0, 48, select=100).items()
    elif what == "keep":
        kept = source.items()
    else:
        kept = deque(source.rows(), maxlen=1)
    print(len(kept), peak() - before)
"""


def fields(number: int) -> bytes:
    return json.dumps({"image": "a.png", "id": number, "caption": caption(number)}).encode()


def caption(number: int) -> str:
    return CAPTION.format(*[number] * 4)


def as_lines(folder: Path) -> Path:
    path = folder / "items.jsonl"
    with path.open("wb") as stream:
        stream.writelines(fields(number) + b"\n" for number in range(ROWS))
    return path


def as_array(folder: Path) -> Path:
    path = folder / "initial_data.json"
    with path.open("wb") as stream:
        stream.writelines(fields(number) + b",\n" for number in range(ROWS))
    return path


def as_parquet(folder: Path) -> Path:
    path = folder / "x.parquet"
    # Images of 1 KiB each: together more than the bound.
    images = pa.array([number.to_bytes(4, "big") * 256 for number in range(ROWS)], pa.binary())
    table = pa.table({"image": images, "caption": [caption(number) for number in range(ROWS)]})
    pq.write_table(table, path, row_group_size=ROWS, compression="none", use_dictionary=False)
    return path


def as_tar(folder: Path) -> Path:
    path = folder / "x.tar"
    text = caption(0).encode().ljust(1024)
    member = tarfile.TarInfo("000000.txt")
    member.size = len(text)
    image, caption_header = tarfile.TarInfo("000000.png").tobuf(), member.tobuf()
    with path.open("wb") as stream:
        for number in range(ROWS):
            key = b"%06d" % number
            stream.write(_renamed(image, key) + _renamed(caption_header, key) + text)
        stream.write(bytes(1024))
    return path


def _renamed(header: bytes, key: bytes) -> bytes:
    """The header of a member under another key of the same length."""
    total = int(header[148:154], 8) - sum(header[: len(key)]) + sum(key)
    return key + header[len(key) : 148] + b"%06o" % total + header[154:]


def growth(path: Path, *what: str) -> list[tuple[int, int]]:
    """How many rows a fresh process kept, and how far its memory had risen above that of its imports."""
    command = [sys.executable, "-c", PROBE, str(path), *what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [(int(kept), int(rise)) for kept, rise in map(str.split, done.stdout.splitlines())]


LITTLE = pytest.approx(0, abs=BOUND)


@pytest.mark.parametrize("make", [as_array, as_tar])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    assert growth(make(tmp_path), "pass") == [(1, LITTLE)]


def test_a_selection_from_lines_needs_memory_for_itself_alone(tmp_path: Path) -> None:
    assert growth(as_lines(tmp_path), "select") == [(100, LITTLE)]


def test_a_list_of_all_items_would_exceed_the_bound_that_reading_keeps(tmp_path: Path) -> None:
    passed, (kept, rise) = growth(as_parquet(tmp_path), "pass", "keep")
    assert passed == (1, LITTLE)
    assert kept == ROWS
    assert rise > 2 * BOUND
