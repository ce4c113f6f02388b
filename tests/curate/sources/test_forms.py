"""Data as other tools leave it: names of fields, captions, delimiters, and where images lie."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sets import folder_with_image, ids, png, reasons, rows_of, write_lines
from hypothesis import given
from hypothesis import strategies as st

from curate.sources import open_source
from curate.sources.fields import make_rows
from curate.sources.json_text import MAX_OBJECT
from engine.errors import DataError


def captions(data: object) -> list[tuple[str, str]]:
    """Image and caption of every usable row."""
    return [(row.item.image, row.item.caption) for row in rows_of(data) if row.item]


COCO = {
    "info": {"year": 2014},
    "images": [{"id": 7, "file_name": "a.png", "license": 3}, {"id": 8, "file_name": "b.png"}],
    "annotations": [
        {"image_id": 8, "id": 1, "caption": "blue"},
        {"image_id": 7, "id": 2, "caption": "red"},
        {"image_id": 9, "id": 3, "caption": "no such image"},
        {"image_id": 7, "id": 4},
        5,
        {"image_id": 7, "id": 6, "caption": "still red"},
    ],
}  # fmt: skip


def test_cocos_annotations_are_captions_of_their_images(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"captions_{split}2014.json").write_text(json.dumps(COCO))
        (tmp_path / f"instances_{split}2014.json").write_text('{"images": [], "annotations": [{"bbox": 1}]}')
    rows = rows_of(tmp_path)
    assert ids(rows) == ["1", "2", "6"]
    assert captions(tmp_path) == [("b.png", "blue"), ("a.png", "red"), ("a.png", "still red")]
    found = reasons(rows)
    assert "image" in found["captions_train2014.json:annotations 3"]
    assert "caption" in found["captions_train2014.json:annotations 4"]
    assert "not a JSON object" in found["captions_train2014.json:annotations 5"]


def test_an_object_larger_than_a_row_may_be_is_read_and_a_torn_one_refused(tmp_path: Path) -> None:
    text = json.dumps({"info": {"about": "x" * MAX_OBJECT}, **COCO})
    (tmp_path / "captions.json").write_text(text)
    assert len(captions(tmp_path)) == 3
    for size in (len(text) - 9, len(text) - 300):
        (tmp_path / "captions.json").write_text(text[:size])
        with pytest.raises(DataError, match="one JSON object without an end"):
            rows_of(tmp_path)


def test_llavas_first_answer_is_the_caption(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "<image>\nwhat is it?"},
        {"from": "gpt", "value": "<image>\na red one "},
        {"from": "human", "value": "sure?"},
        {"from": "gpt", "value": "yes"},
    ]
    rows: list[Any] = [{"id": "text"}, {"id": "image", "image": "a.png"}]
    rows = [{**one, "conversations": turns} for one in rows]
    (tmp_path / "llava.json").write_text(json.dumps(rows))
    assert captions(tmp_path / "llava.json") == [("a.png", "a red one")]
    assert "image" in reasons(rows_of(tmp_path))["llava.json:object 1"]


def test_flickrs_bars_are_columns(tmp_path: Path) -> None:
    lines = ["image_name| comment_number| comment", "a.jpg| 0| Two men, one red ."]
    lines += ['a.jpg| 1| "Hello" , he says .', "a.jpg| 4   A dog runs"]
    (tmp_path / "results.csv").write_text("\n".join(lines))
    rows = rows_of(tmp_path)
    assert captions(tmp_path) == [("a.jpg", "Two men, one red ."), ("a.jpg", '"Hello" , he says .')]
    assert ids(rows) == ["a.jpg", "a.jpg#1"]
    assert reasons(rows) == {"results.csv:4": "2 columns where the header has 3"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_any_delimiter_are_read(tmp_path: Path, delimiter: str, encoding: str) -> None:
    for name in ("metadata.csv", "x.tsv", "captions.txt"):
        text = f"ID{delimiter} Image_Path{delimiter}Caption\r\n1{delimiter}a.png{delimiter}ein Würfel\r\n"
        (tmp_path / name).write_text(text, encoding=encoding, newline="")
        assert captions(tmp_path / name) == [("a.png", "ein Würfel")]


NAMES = [("image", "caption"), ("file_name", "text"), ("image_path", "TEXT"), ("filepath", "title")]


@pytest.mark.parametrize(("image", "caption"), [*NAMES, ("Image", "Caption"), ("IMG_PATH", "captions")])
def test_all_names_of_a_field_are_known_in_every_format(tmp_path: Path, image: str, caption: str) -> None:
    row = {image: "a.png", caption: "red"}
    write_lines(tmp_path / "a.jsonl", [row])
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (tmp_path / "a.csv").write_text(f"{image},{caption}\na.png,red\n")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        assert captions(tmp_path / name) == [("a.png", "red")], name


@pytest.mark.parametrize(
    "tree",
    [
        {"data": [{"image": "a.png", "caption": "red"}, {"image": "a.png", "caption": "round"}]},
        {"a.png": ["red", "round"]},
        {"a.png": "red", "./a.png": "round"},
    ],
)
def test_an_object_of_rows_or_of_captions_by_name_is_read(tmp_path: Path, tree: object) -> None:
    (tmp_path / "a.json").write_text(json.dumps(tree, indent=1))
    assert [caption for _, caption in captions(tmp_path)] == ["red", "round"]


def test_a_text_beside_each_image_is_its_caption(tmp_path: Path) -> None:
    folder = folder_with_image(tmp_path)
    (folder / "a.txt").write_text("red\n")
    (folder / "B.JPG").write_bytes(png())
    (folder / "B.txt").write_bytes(b"W\xfcrfel")
    (folder / "c.png").write_bytes(png())
    (folder / "LICENSE.txt").write_text("free")
    rows = rows_of(folder)
    assert captions(folder) == [("a.png", "red")]
    assert "Unicode" in reasons(rows)["B.JPG"]
    assert "no text of the same name" in reasons(rows)["c.png"]


def test_a_text_that_is_no_file_of_the_folder_is_its_rows_reason(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    names = ("good", "linked", "out", "folder", "pipe", "dangling")
    folder = folder_with_image(tmp_path / "data", *(f"{name}.png" for name in names))
    (folder / "good.txt").write_text("red")
    (folder / "linked.txt").symlink_to("good.txt")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "folder.txt").mkdir()
    os.mkfifo(folder / "pipe.txt")
    (folder / "dangling.txt").symlink_to("absent")
    os.mkfifo(folder / "table.csv")
    source = open_source(str(folder), "", 0, 48)
    rows = list(source.rows())
    assert source.digest
    assert captions(folder) == [("good.png", "red"), ("linked.png", "red")]
    found = reasons(rows)
    assert "outside the data set's folder by a symbolic link" in found.pop("out.png")
    assert set(found) == {"folder.png", "pipe.png", "dangling.png"}
    with pytest.raises(DataError, match="no file"):
        rows_of(folder / "table.csv")


def test_of_several_names_of_a_field_the_first_that_is_filled_counts(tmp_path: Path) -> None:
    rows = [{"image": value, "file_name": "a.png", "caption": "red"} for value in ("", None, " ")]
    write_lines(tmp_path / "a.jsonl", [{**row, "id": number} for number, row in enumerate(rows)])
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "a.parquet")
    assert captions(tmp_path / "a.jsonl") == [("a.png", "red")] * 3
    assert captions(tmp_path / "a.parquet") == [("a.png", "red")]


def test_a_caption_with_nul_characters_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"file_name,text\na.png,r\0ed\nb.png,blue\n")
    assert captions(tmp_path) == [("b.png", "blue")]
    assert "NUL" in reasons(rows_of(tmp_path))["a.csv:2"]


def test_the_official_file_names_images_from_two_folders_above(tmp_path: Path) -> None:
    root = tmp_path / "datasets/journeydb"
    folder_with_image(root / "initial_images")
    names = [f"datasets/{spelling}/initial_images/a.png" for spelling in ("journeydb", "journydb")]
    rows = [{"id": i, "img_path": name, "caption": f"{i}"} for i, name in enumerate(names)]
    (root / "initial_data.json").write_text(json.dumps(rows))
    source = open_source(str(root), "", 0, 48)
    assert len(source.images(source.items())[0]) == 2


def test_images_may_lie_in_a_folder_that_is_named(tmp_path: Path) -> None:
    photos, folder = folder_with_image(tmp_path / "photos/2014").parent, tmp_path / "data"
    (tmp_path / "secret.png").write_bytes(png())
    folder.mkdir()
    (folder / "link.png").symlink_to(photos / "2014/a.png")
    (photos / "out.png").symlink_to(tmp_path / "secret.png")
    names = ["2014/a.png", str(photos / "2014/a.png"), "../photos/2014/a.png", "link.png"]
    bad = ["out.png", "../secret.png", str(tmp_path / "secret.png"), "/etc/passwd"]
    rows = [{"id": name, "image": name, "caption": "red"} for name in (*names, *bad)]
    write_lines(folder / "items.jsonl", rows)
    source = open_source(str(folder), "", 0, 48, images=str(photos))
    items, pixels, _ = source.images(source.items())
    assert [one.id for one in items] == names
    assert pixels[0, 0, 0, 0] > 150
    alone = open_source(str(folder), "", 0, 48)
    assert not alone.images(alone.items())[0]
    assert "--images" in next(row.reason for row in alone.rows() if row.item is None)
    with pytest.raises(DataError, match="--images nowhere: there is no such folder"):
        open_source(str(folder), "", 0, 48, images="nowhere")


def test_paths_in_a_table_are_found_in_the_folder_that_is_named(tmp_path: Path) -> None:
    photos = folder_with_image(tmp_path / "photos")
    image = [{"bytes": None, "path": str(photos / "a.png")}, {"bytes": None, "path": "a.png"}]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": image, "text": ["a", "b"]}), tmp_path / "data/x.parquet")
    source = open_source(str(tmp_path / "data"), "", 0, 48, images=str(photos))
    assert len(source.images(source.items())[0]) == 2


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["from", "value", "a"]), inner)
    ),
    max_leaves=6,
)
NAMES_OF_FIELDS = ["id", "Image", "image", "TEXT", "captions", "conversations", "image_id", "url", "q"]
FIELDS = st.sampled_from(NAMES_OF_FIELDS)


@given(st.dictionaries(FIELDS, ANYTHING | st.just([{"from": "gpt", "value": "red"}])))
def test_any_fields_are_items_or_a_reason(fields: dict[str, Any]) -> None:
    rows = list(make_rows(0, "here", fields, folders=[Path("data")]))
    assert rows
    assert all((row.item is None) == bool(row.reason) for row in rows)
