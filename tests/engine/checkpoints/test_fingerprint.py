"""A checkpoint's fingerprint is that of its bytes, and costs their reading once."""

from __future__ import annotations

import os
import time
from pathlib import Path

from engine.checkpoints.weights import fingerprint
from engine.files.layout import WEIGHTS


def read_so_far() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def test_weights_are_digested_once_and_again_after_any_change(tmp_path: Path) -> None:
    """Also where a change leaves size and time of modification as they were."""
    path = tmp_path / WEIGHTS
    path.write_bytes(b"1" * (1 << 20))
    before = path.stat()
    first = fingerprint(tmp_path)
    path.write_bytes(b"2" * (1 << 20))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = fingerprint(tmp_path)
    assert second != first, "too young to be remembered"
    time.sleep(1.1)
    assert fingerprint(tmp_path) == second
    start = read_so_far()
    assert fingerprint(tmp_path) == second
    assert read_so_far() - start < 1 << 16
    path.write_bytes(b"1" * (1 << 20))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fingerprint(tmp_path) == first
