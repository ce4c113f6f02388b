"""Files and folders appear whole or not at all, whoever is interrupted or was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import DataError
from engine.files.atomic import atomic_file, atomic_folder, check_free, write_file
from engine.files.tensors import save_tensors

ROOT = Path(__file__).parents[3]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_file_that_is_interrupted_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_file(path, b"old")

    def interrupted() -> None:
        with atomic_file(path) as write:
            write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files_of(tmp_path) == {"deep/file": b"old"}
    with atomic_file(path) as write:
        write(b"ne")
        write(b"w")
        assert path.read_bytes() == b"old"
    assert files_of(tmp_path) == {"deep/file": b"new"}


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    to = tmp_path / "to"

    def interrupted() -> None:
        with atomic_folder(to) as folder:
            (folder / "half").write_text("half")
            assert not to.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".to.new").mkdir()
    (tmp_path / ".to.new" / "left by a killed run").touch()
    with atomic_folder(to) as folder:
        (folder / "all").write_text("all")
    assert files_of(tmp_path) == {"to/all": b"all"}
    with pytest.raises(DataError, match="to: cannot be written"), atomic_folder(to) as folder:
        (folder / "other").touch()
    assert files_of(tmp_path) == {"to/all": b"all"}
    with atomic_folder(to, replace=True) as folder:
        (folder / "other").touch()
    assert files_of(tmp_path) == {"to/other": b""}
    with pytest.raises(DataError, match="is left alone; name a new folder with --to"):
        check_free(to)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"), atomic_folder(tmp_path / "file" / "to"):
        pass


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from engine.files.atomic import write_file
from engine.errors import DataError
from engine.files.tensors import save_tensors

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for name, write in (
    ("bytes", lambda path: write_file(path, b"1" * 200_000)),
    ("buffered", lambda path: write_file(path, b"1" * 100_001)),
    ("tensors", lambda path: save_tensors({"a": torch.zeros(50_000)}, path)),
):
    try:
        write(Path(sys.argv[1]) / name)
    except DataError as error:
        print(error)
"""


def test_what_the_file_system_does_not_take_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files, for a disk that is full."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    assert [line.partition(": cannot be written: ")[0] for line in said] == [
        str(tmp_path / name) for name in ("bytes", "buffered", "tensors")
    ]
    assert all("File too large" in line and "make room" in line for line in said)
    assert files_of(tmp_path) == {}


def test_tensors_are_readable_like_any_other_file(tmp_path: Path) -> None:
    path, plain = tmp_path / "new folder" / "one.safetensors", tmp_path / "plain"
    save_tensors({"a": torch.arange(3.0)}, path, {"format": "pt"})
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    assert load_file(path)["a"].tolist() == [0, 1, 2]
    assert [one.name for one in path.parent.iterdir()] == ["one.safetensors"]
