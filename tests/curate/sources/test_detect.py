"""What `--data` takes is told by what lies at the path; where that does not tell, one line says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sets import png, rows_of, write_lines, write_tar

from curate.sources.detect import KINDS, detect
from engine.errors import DataError

ITEM = {"id": 1, "img_path": "a.png", "caption": "red", "prompt": "p"}
JOURNEY = {"img_path": "a.png", "Task2": {"Caption": "red"}}


def everything(folder: Path) -> Path:
    """A folder with one data set of every kind that is told by a file's name."""
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(png())
    write_lines(folder / "items.jsonl", [ITEM])
    write_lines(folder / "train_anno.jsonl", [JOURNEY])
    (folder / "initial_data.json").write_text(json.dumps([ITEM]))
    pq.write_table(pa.table({"image": [png()], "caption": ["red"]}), folder / "x.parquet")
    write_tar(folder / "x.tar", {"1.png": png(), "1.txt": b"red"})
    return folder


FILES = {
    "folder": "items.jsonl",
    "journeydb": "train_anno.jsonl",
    "official": "initial_data.json",
    "parquet": "x.parquet",
    "webdataset": "x.tar",
}


@pytest.mark.parametrize("kind", FILES)
def test_each_kind_is_known_by_its_file_and_by_a_folder_that_holds_it(tmp_path: Path, kind: str) -> None:
    file = everything(tmp_path / "all") / FILES[kind]
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in (FILES[kind], "a.png"):
        shutil.copy(file.with_name(name), alone)
    (alone / "README.md").write_text("not data")
    for path in (file, alone, alone / FILES[kind]):
        assert detect(path).kind == kind
        assert [row.item.caption for row in rows_of(path) if row.item] == ["red"]


@pytest.mark.parametrize("kind", FILES)
def test_content_tells_the_kind_of_a_file_with_another_name(tmp_path: Path, kind: str) -> None:
    file = everything(tmp_path) / FILES[kind]
    renamed = file.rename(file.with_name("data"))
    if kind == "official":
        assert renamed.read_text().startswith("[")
    assert detect(renamed).kind == kind


def test_several_kinds_are_refused_until_one_is_named(tmp_path: Path) -> None:
    folder = everything(tmp_path)
    with pytest.raises(DataError, match="several data sets lie here") as caught:
        detect(folder)
    assert len(str(caught.value).splitlines()) == 1
    for kind, name in FILES.items():
        assert f"{kind} ({name})" in str(caught.value)
        assert len(rows_of(f"{kind}:{folder}")) == 1


def test_two_annotation_files_are_refused_until_one_is_named(tmp_path: Path) -> None:
    for name in ("train.jsonl", "valid.jsonl"):
        write_lines(tmp_path / name, [JOURNEY])
    with pytest.raises(DataError, match=r"journeydb \(train.jsonl\), journeydb \(valid.jsonl\)"):
        detect(tmp_path)


@pytest.mark.parametrize("content", ["", "hello", "[1, 2]", '{"a": 1}', "[{}, {}]"])
def test_what_is_no_data_set_is_refused_with_all_that_is_taken(tmp_path: Path, content: str) -> None:
    (tmp_path / "notes.json").write_text(content)
    for path in (tmp_path, tmp_path / "notes.json"):
        with pytest.raises(DataError, match="nothing here that --data takes") as caught:
            detect(path)
        assert len(str(caught.value).splitlines()) == 1
        for kind in ("shapes", *KINDS):
            assert kind in str(caught.value)


def test_a_missing_path_and_a_missing_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        rows_of(tmp_path / "absent")
    write_lines(tmp_path / "items.jsonl", [ITEM])
    with pytest.raises(DataError, match=r"no parquet data \(\*\.parquet\) here"):
        rows_of(f"parquet:{tmp_path}")


def test_a_kind_can_be_forced_upon_a_file(tmp_path: Path) -> None:
    odd = write_lines(tmp_path / "odd.jsonl", ["{damaged}"] * 30 + [json.dumps(JOURNEY)])
    with pytest.raises(DataError, match="nothing here"):
        detect(odd)
    assert len(rows_of(f"journeydb:{odd}")) == 31


def test_shards_of_several_splits_give_the_train_split_or_a_refusal(tmp_path: Path) -> None:
    for name in ("train-000000.tar", "train-000001.tar", "val-000000.tar"):
        write_tar(tmp_path / name, {"1.png": png(), "1.txt": b"red"})
    assert [path.name for path in detect(tmp_path).files] == ["train-000000.tar", "train-000001.tar"]
    for path in tmp_path.glob("train-*"):
        path.rename(path.with_name(path.name.replace("train", "test")))
    with pytest.raises(DataError, match=r"several splits \(test, val\) and none is train"):
        detect(tmp_path)
