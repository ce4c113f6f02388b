"""An export appears whole or not at all, and holds one preference at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from curate.exchange.export import FORMATS, export_pairs
from curate.exchange.tokenizers import Tokenizers
from curate.store.files import write_records
from engine.records import Preference

STALLING = """
import sys, time
from pathlib import Path
from curate.exchange.export import export_pairs
from curate.exchange.tokenizers import Tokenizers
from curate.store.files import read_records
from engine.files.layout import EMBEDDED_MODEL
from engine.records import Preference

def slowly():
    yield from read_records(Path("pairs.jsonl"), Preference)
    print("all read", flush=True)
    time.sleep(600)

export_pairs(slowly(), Path("out"), sys.argv[1], Tokenizers(EMBEDDED_MODEL), Path("."))
"""


@pytest.mark.parametrize("layout", FORMATS)
def test_an_interrupted_export_leaves_no_folder(
    tmp_path: Path, layout: str, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    def interrupted() -> Iterator[Preference]:
        yield from preferences
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_pairs(interrupted(), tmp_path / "out", layout, tokenizers, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_no_folder_and_the_next_one_completes(
    tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    write_records(tmp_path / "pairs.jsonl", preferences)
    victim = subprocess.Popen(
        [sys.executable, "-c", STALLING, "trl"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert victim.stdout is not None
    assert victim.stdout.readline() == b"all read\n"
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.rglob("*.png"))
    export_pairs(preferences, tmp_path / "out", "trl", tokenizers, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pairs.jsonl"]
    assert len((tmp_path / "out/metadata.jsonl").read_text().splitlines()) == 3


def test_a_preference_is_asked_for_when_the_one_before_is_on_disk(
    tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    seen = []

    def watched() -> Iterator[Preference]:
        for preference in preferences:
            seen.append(len(list(tmp_path.rglob("*.png"))))
            yield preference

    export_pairs(watched(), tmp_path / "out", "align-anything", tokenizers, tmp_path)
    assert seen == [0, 3, 4, 6, 6]
