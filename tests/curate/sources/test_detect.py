"""What `--data` takes is told by what lies at the path; where that does not tell, one line says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sets import png, rows_of, write_lines, write_tar

from curate.sources import open_source
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
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(tmp_path / name, [JOURNEY])
    with pytest.raises(DataError, match=r"journeydb \(a.jsonl\), journeydb \(b.jsonl\)"):
        detect(tmp_path)


def test_a_folder_of_nothing_is_refused_with_all_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("not data")
    with pytest.raises(DataError, match="nothing here that --data takes") as caught:
        detect(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    for kind in ("shapes", *KINDS):
        assert kind in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b"", "it is empty"),
        ("a.json", b"hello", "none of its rows can be read; the first: not a JSON object"),
        ("a.json", b"[1, 2]", "none of its rows can be read; the first: not a JSON object"),
        ("a.json", b"[{}, {}]", "none of its rows can be read; the first: it has no fields"),
        ("a.json", b'{"a": 1}', "its rows have the fields a, no image (image, file_name"),
        ("a.jsonl", b'{"caption": "torn', "none of its rows can be read; the first: the object has no end"),
        ("a.jsonl", b'{"url": "https://a.org/a.jpg", "TEXT": "a"}\n', "download the images first"),
        ("a.json", b'{"images": [], "annotations": [{"id": 1, "bbox": []}]}', "fields id, bbox, no caption"),
        ("a.csv", b"url;TEXT\nhttps://a.org/a.jpg;red\n", "its columns are url, TEXT; addresses (url)"),
        ("a.csv", b"a.jpg,red\nb.jpg,blue\n", "its columns are a.jpg, red; its first line must name them"),
        ("a.tsv", b"a.jpg\tred\n", "its columns are a.jpg, red"),
        ("a.txt", b"a.jpg\n", "its columns are a.jpg"),
        ("a.jsonl", '{"image": "a.png"}'.encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        ("a.json", b"PK\x03\x04", "unpack it"),
        ("a.jpg", b"\xff\xd8\xff", "it is an image; name a file of captions"),
    ],
)
def test_a_file_that_is_not_read_is_told_why_in_one_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    for path in [tmp_path / name] + [tmp_path] * (name != "a.jpg"):
        with pytest.raises(DataError) as caught:
            detect(path)
        assert words in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_a_folder_of_images_alone_is_told_that_captions_are_wanted(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(png())
    with pytest.raises(DataError, match=r"holds images \(3\) and no captions: add metadata\.csv"):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("https://a.org/datasets/a/b", "https://a.org/datasets/a/b: an address; --data takes what lies"),
        ("s3://bucket/x.parquet", "s3://bucket/x.parquet: an address; --data takes what lies"),
        ("x" * 5000, "there is no such file or folder"),
        ("lmms-lab/COCO-Caption", "hf download --repo-type dataset lmms-lab/COCO-Caption"),
    ],
)
def test_what_lies_elsewhere_must_be_downloaded_first(data: str, words: str) -> None:
    for name in (data, str(Path(data).absolute())):
        with pytest.raises(DataError) as caught:
            open_source(name, "train", 0, 48)
        assert words in str(caught.value)


def test_a_missing_path_and_a_missing_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        rows_of(tmp_path / "absent")
    write_lines(tmp_path / "items.jsonl", [ITEM])
    with pytest.raises(DataError, match=r"no parquet data \(\*\.parquet\) here"):
        rows_of(f"parquet:{tmp_path}")


def test_a_kind_can_be_forced_upon_a_file(tmp_path: Path) -> None:
    odd = write_lines(tmp_path / "odd.jsonl", ["{damaged}"] * 30 + [json.dumps(JOURNEY)])
    with pytest.raises(DataError, match="none of its rows can be read"):
        detect(odd)
    assert len(rows_of(f"journeydb:{odd}")) == 31
