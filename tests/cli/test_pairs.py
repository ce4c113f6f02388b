"""`hermes pairs` and `hermes import-pairs` as a user types them, on the embedded model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.shapes import world
from engine.checkpoints.weights import fingerprint
from engine.files.layout import EMBEDDED_MODEL
from hermes_cli.main import main
from hermes_cli.run.folder import asked
from hermes_cli.settings import stored_settings


def hermes(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "hermes_cli.main", *arguments],
        cwd=cwd,
        capture_output=True,
        timeout=300,
        check=False,
    )


def done(cwd: Path, *arguments: str) -> str:
    found = hermes(cwd, *arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout.decode()


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with six imported items of both pairs, one of which lacks an image, and one broken row."""
    folder = tmp_path_factory.mktemp("user")
    rows = []
    for index in range(8):
        item, _ = world.item("train", 0, index)
        Image.fromarray(np.array(world.image_of(item.id))).save(folder / f"{index}.png")
        row = {"id": index, "img_path": f"{index}.png", "prompt": "", "caption": item.caption}
        row |= {"caption_win": item.caption, "caption_lose": "there is no shape"}
        row |= {"bert_score_win": 0.9, "bert_score_lose": 0.1, "vqa_score_win": 1.0, "vqa_score_lose": 0.5}
        rows.append({**row, "image_win": f"{index}.png", "image_lose": f"{(index + 1) % 8}.png"})
    rows[3]["image_win"] = "../3.png"
    rows[5] |= {"caption_win": "", "image_lose": "absent.png"}
    (folder / "pair_dpo_data.json").write_text(",\n".join(json.dumps(row) for row in rows) + ",\n")
    printed = done(folder, "import-pairs", "pair_dpo_data.json", "--run", "run")
    assert "8 rows of pair_dpo_data.json: 7 caption pairs, 6 image pairs" in printed
    assert "1 row quarantined, 1 with one side alone" in printed
    assert "hermes train --run run --round 1" in printed
    return folder


def test_pairs_are_printed_byte_for_byte_and_nothing_else(cwd: Path) -> None:
    stored = (cwd / "run/run.json").stat().st_mtime_ns
    found = hermes(cwd, "pairs", "run", "--round", "1")
    assert found.returncode == 0
    assert found.stdout == (cwd / "run/round-1/curate/pairs.jsonl").read_bytes()
    assert found.stdout.count(b"\n") == 7
    assert found.stderr == b""
    assert (cwd / "run/run.json").stat().st_mtime_ns == stored


def test_imported_pairs_train(cwd: Path) -> None:
    done(cwd, "train", "--run", "run", "--set", "train.steps=1", "--set", "train.batch_size=4")
    assert fingerprint(cwd / "run/round-1/checkpoint") != fingerprint(EMBEDDED_MODEL)


def typed(*arguments: str) -> int:
    """The exit status of a command in this process, for those that leave nothing behind in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hermes", *arguments])
        try:
            main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
    return 0


def test_an_export_is_imported_into_another_run(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(cwd)
    assert typed("pairs", "run", "--format", "parquet", "--to", "table") == 0
    assert "table: 7 items, 7 caption pairs, 6 image pairs" in capsys.readouterr().out
    assert typed("import-pairs", "table", "--run", "other") == 0
    pairs = "round-1/curate/pairs.jsonl"
    assert (cwd / "other" / pairs).read_bytes() == (cwd / "run" / pairs).read_bytes()
    assert stored_settings(cwd / "other/run.json") == asked(cwd / "new")[1], "the default recipe"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("pairs", "run", "--round", "2"),
            "round 2 has no pairs in run: run `hermes curate --round 2 --run run` first",
        ),
        (("pairs", "nowhere"), "nowhere: no run in this folder"),
        (("pairs", "run", "--format", "trl"), "name both, --format"),
        (("pairs", "run", "--to", "out"), "name both, --format"),
        (("pairs", "run", "--format", "csv", "--to", "out"), "--format csv: not known"),
        (("pairs", "run", "--format", "trl", "--to", "run"), "run: is there already and is left alone"),
        (
            ("pairs", "run", "--format", "trl", "--to", "out", "--model", "nowhere"),
            "name a checkpoint folder",
        ),
        (("import-pairs", "pair_dpo_data.json", "--run", "run"), "holds pairs.jsonl already"),
        (("import-pairs", "absent.json", "--run", "new"), "absent.json: no pairs here"),
        (("import-pairs", "pair_dpo_data.json", "--run", "new", "--round", "2"), "hermes curate --round 1"),
        (("import-pairs", "pair_dpo_data.json", "--run", "new", "--format", "trl"), "no row can be used"),
        (("curate", "--run", "run"), "holds imported pairs, which `hermes train` takes"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    cwd: Path,
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(cwd)
    assert typed(*arguments) == 1
    printed, error = capsys.readouterr()
    assert printed.count("\n") <= 1
    assert error.startswith("hermes: ")
    assert error.strip().count("\n") == 0
    assert words in error
    assert not (cwd / "out").exists()


def test_a_reader_that_stops_early_is_no_error_of_ours(cwd: Path) -> None:
    shell = f"{sys.executable} -m hermes_cli.main pairs run | head -c 10"
    found = subprocess.run(shell, shell=True, cwd=cwd, capture_output=True, check=False)
    assert len(found.stdout) == 10
    assert b"Traceback" not in found.stderr
