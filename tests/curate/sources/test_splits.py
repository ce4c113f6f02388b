"""Which files are trained on, and which images are held out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sets import folder_with_image, png, write_lines, write_tar
from hypothesis import given
from hypothesis import strategies as st

from curate.exchange.files import row_files
from curate.sources import load_source, open_source
from curate.sources.detect import detect
from curate.sources.splits import split_of, train_files
from engine.errors import DataError

TRAIN = ("train", "training")
OTHERS = ("test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation")
PARTS = st.text("abcxyz0189", max_size=5).filter(lambda one: one not in (*TRAIN, *OTHERS))
SEPARATORS = st.sampled_from(list("-_.@ 07"))
ENDING = "-00000-of-00001.parquet"


@given(st.sampled_from((*TRAIN, *OTHERS)), PARTS, PARTS, SEPARATORS, SEPARATORS, st.data())
def test_a_split_is_a_word_anywhere_in_a_name_in_any_case(
    word: str, before: str, behind: str, left: str, right: str, data: st.DataObject
) -> None:
    cased = "".join(data.draw(st.sampled_from([one, one.upper()])) for one in word)
    name = f"{before}{left if before else ''}{cased}{right}{behind}.tar"
    assert (split_of(name) == "train") == (word in TRAIN)
    assert split_of(name)
    assert split_of(f"x{name}") == ("" if not before else split_of(name))


@pytest.mark.parametrize("name", ["latest.tar", "trained-0.tar", "restrain.json", "values.csv", "device.tar"])
def test_a_part_of_another_word_is_no_split(name: str) -> None:
    assert not split_of(name)


@given(st.lists(st.sampled_from(["train", "Test", "VAL", "extra"]), min_size=1, max_size=9))
def test_train_files_alone_are_taken_or_the_folder_is_refused(words: Sequence[str]) -> None:
    files = [Path(f"set_{word}-{number}.tar") for number, word in enumerate(words)]
    if len(set(words)) > 1 and "train" not in words:
        with pytest.raises(DataError, match=r"several splits .* none is train"):
            train_files(Path("data"), files)
        return
    taken = train_files(Path("data"), files)
    assert taken == tuple(one for one in files if len(set(words)) == 1 or "train" in one.name)


@pytest.mark.parametrize(
    ("train", "other"),
    [
        ("cc3m-train-0000.tar", "cc3m-validation-0000.tar"),
        (f"flowers-train{ENDING}", f"flowers-test{ENDING}"),
        ("mydata_train.jsonl", "mydata_test.jsonl"),
        ("Train-0.csv", "Dev-0.csv"),
    ],
)
def test_data_sets_and_imported_pairs_take_the_train_split(tmp_path: Path, train: str, other: str) -> None:
    for name in (train, other):
        if name.endswith(".tar"):
            write_tar(tmp_path / name, {"1.png": png(), "1.txt": b"red"})
        elif name.endswith(".csv"):
            (tmp_path / name).write_text("image,text\na.png,red\n")
        else:
            write_lines(tmp_path / name, [{"image": "a.png", "text": "red"}])
    assert [one.name for one in detect(tmp_path).files] == [train]
    if train.endswith((".jsonl", ".parquet")):
        assert [one.name for one in row_files(tmp_path)] == [train]
    (tmp_path / train).rename(tmp_path / train.lower().replace("train", "eval"))
    if split_of(other) == "test":
        return
    with pytest.raises(DataError, match=r"several splits \((test, validation|validation, test)\)"):
        detect(tmp_path)


def test_imported_pairs_of_several_splits_are_refused_where_none_is_train(tmp_path: Path) -> None:
    for name in ("dev.jsonl", "test.jsonl"):
        write_lines(tmp_path / name, [{}])
    with pytest.raises(DataError, match="several splits"):
        row_files(tmp_path)


def test_a_folder_train_is_taken_where_its_parent_has_no_data(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = folder_with_image(tmp_path / split)
        write_lines(folder / "metadata.jsonl", [{"file_name": "a.png", "text": split}])
    source = open_source(str(tmp_path), "", 0, 48)
    (item,) = source.items()
    assert item.caption == "train"
    assert source.image(item).shape == (48, 48, 3)


ROWS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=40)
"""Image and caption of each row, in any order and any number an image."""


def write(folder: Path, rows: Sequence[object]) -> str:
    return str(write_lines(folder / "items.jsonl", rows))


@given(ROWS, st.booleans())
def test_captions_of_one_image_stay_on_one_side_and_none_is_lost(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]], own_ids: bool
) -> None:
    fields = [
        {"image": f"{'./' * (caption % 2)}{image}.png", "caption": f"c{caption}"} for image, caption in rows
    ]
    if own_ids:
        fields = [{**one, "id": f"{number}"} for number, one in enumerate(fields)]
    path = write(tmp_path_factory.mktemp("data"), fields)
    sides = [open_source(path, split, 0, 48).items() for split in ("train", "evaluation")]
    train, held_out = ({Path(one.image).name for one in side} for side in sides)
    assert not train & held_out
    found = [one for side in sides for one in side]
    assert len({one.id for one in found}) == len(found)
    wanted = rows if own_ids else set(rows)
    assert sorted((int(Path(one.image).stem), int(one.caption[1:])) for one in found) == sorted(wanted)
    # Every fifth image is held out.
    assert len(held_out) == len({image for image, _ in rows}) // 5 or not own_ids


@given(st.lists(st.sampled_from(["good", "bad", "again"]), min_size=1, max_size=40))
def test_in_a_set_of_one_caption_an_image_every_fifth_row_is_held_out(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str]
) -> None:
    rows: list[object] = []
    for number, kind in enumerate(kinds):
        rows.append("damaged" if kind == "bad" else {"image": f"{number}.png", "caption": "c"})
        if kind == "again" and number and isinstance(rows[-2], dict):
            rows[-1] = rows[-2]
    path = write(tmp_path_factory.mktemp("data"), rows)
    held_out = {one.position for one in open_source(path, "evaluation", 0, 48).rows()}
    assert held_out == set(range(4, len(rows), 5))


def test_five_captions_an_image_get_ids_of_their_own(tmp_path: Path) -> None:
    rows = [{"image": f"{i}.png", "caption": f"{i} {k}"} for i in range(10) for k in range(5)]
    listed = [{"image": f"{i}.png", "captions": [f"{i} {k}" for k in range(5)]} for i in range(10)]
    for name, found in (("rows", rows), ("lists", listed)):
        (tmp_path / name).mkdir()
        path = write(tmp_path / name, found)
        held_out = load_source(path, "evaluation", 0, 0, 48).items()
        assert [one.id for one in held_out] == [
            f"{i}.png{end}" for i in (4, 9) for end in ("", "#1", "#2", "#3", "#4")
        ]
        assert len(load_source(path, "train", 0, 0, 48).items()) == 40


def test_all_names_of_one_file_are_one_image(tmp_path: Path) -> None:
    photos, folder = tmp_path / "data/imgs", tmp_path / "data"
    folder_with_image(photos)
    names = ["{}.png", "imgs/{}.png", "./imgs//{}.png", f"{photos}/{{}}.png", "../data/imgs/{}.png"]
    rows = [
        {"image": name.format(i), "caption": f"{i} {k}"} for i in range(10) for k, name in enumerate(names)
    ]
    path = write(folder, rows)
    for images in ("", str(photos)):
        held_out = [one.caption for one in open_source(path, "evaluation", 0, 48, images=images).items()]
        assert held_out == [f"{i} {k}" for i in (4, 9) for k in range(5)]


@pytest.mark.parametrize("known", ["image_id", "path", "file_name", "nothing"])
@pytest.mark.parametrize("kind", ["parquet", "datasets", "webdataset"])
def test_rows_of_one_embedded_image_are_known_by_an_id_or_a_name(
    tmp_path: Path, known: str, kind: str
) -> None:
    rows = [(i, k) for i in range(10) for k in range(5)]
    path = tmp_path / "data"
    if kind == "webdataset":
        members: dict[str, bytes] = {}
        for i, k in rows:
            fields = {"caption": f"{i} {k}", "width": 80, known: f"{i}.png"}
            members |= {f"{i}-{k}.png": png(), f"{i}-{k}.json": json.dumps(fields).encode()}
        write_tar(path, members)
    else:
        names = [f"{i}.png" if known == "path" else None for i, _ in rows]
        images = [{"bytes": png(), "path": name} for name in names]
        columns = {"image": images, "caption": [f"{i} {k}" for i, k in rows]}
        if known != "path":
            columns[known] = [f"{i}.png" for i, _ in rows]
        if kind == "parquet":
            pq.write_table(pa.table(columns), path)
        else:
            datasets.Dataset.from_dict(columns).save_to_disk(str(path))
    source = open_source(f"{kind}:{path}", "evaluation", 0, 48)
    held_out = [one.caption for one in source.items()]
    together = [f"{i} {k}" for i in (4, 9) for k in range(5)]
    # Bytes alone are not compared, and a set of one caption an image keeps its places.
    alone = known == "nothing" or (kind == "webdataset" and known == "path")
    assert held_out == ([f"{i} 4" for i in range(10)] if alone else together)
    assert source.image(source.items()[-1]).shape == (48, 48, 3)


def test_rows_of_one_embedded_image_are_known_by_its_id(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for i in range(10):
        for k in range(5):
            members |= {
                f"{i}-{k}.png": png(),
                f"{i}-{k}.json": json.dumps({"image_id": i, "caption": f"{i} {k}"}).encode(),
            }
    path = str(write_tar(tmp_path / "x.tar", members))
    held_out = {one.caption for one in open_source(path, "evaluation", 0, 48).items()}
    assert held_out == {f"{i} {k}" for i in (4, 9) for k in range(5)}
