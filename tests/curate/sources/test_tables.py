"""Parquet files and folders that `datasets` saved: rows without images, images when asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sets import QUESTION, bomb, folder_with_image, ids, png, reasons, rows_of

from curate.sources import load_source, open_source
from engine.errors import DataError

Save = Callable[[datasets.Dataset, Path], None]


@pytest.fixture(autouse=True)
def _silence() -> None:
    datasets.disable_progress_bars()


def dataset(images: list[Any], **columns: list[Any]) -> datasets.Dataset:
    """A data set as its users make it: with the image feature."""
    given = {"text": [f"caption {i}" for i in range(len(images))], **columns}
    made = datasets.Dataset.from_dict({"image": images, **given})
    return made.cast_column("image", datasets.Image())


def to_parquet(made: datasets.Dataset, folder: Path) -> None:
    folder.mkdir(parents=True)
    made.to_parquet(str(folder / "data-00000.parquet"))


def to_disk(made: datasets.Dataset, folder: Path) -> None:
    made.save_to_disk(str(folder))


EITHER = pytest.mark.parametrize("save", [to_parquet, to_disk])


@EITHER
def test_a_real_data_set_gives_captions_questions_and_images(tmp_path: Path, save: Save) -> None:
    colours = [(200, 10 * i, 30) for i in range(20)]
    questions = [[{**QUESTION, "question": f"is it {i}?"}] for i in range(20)]
    save(dataset([png(one) for one in colours], questions=questions), tmp_path / "data")
    source = load_source(str(tmp_path / "data"), "train", 0, 0, 48)
    items = source.items()
    assert [item.caption for item in items] == [f"caption {i}" for i in range(20) if i % 5 != 4]
    assert [item.questions[0].question for item in items] == [f"is it {i}?" for i in range(20) if i % 5 != 4]
    for item in (*items, items[3], items[-1], items[0]):
        green = colours[int(item.caption.split()[-1])][1]
        assert abs(int(source.image(item)[24, 24, 1]) - green) <= 1


@EITHER
def test_rows_are_named_by_shard_and_place(tmp_path: Path, save: Save) -> None:
    save(dataset([png()] * 3, id=[10, 11, 10]), tmp_path / "data")
    rows = rows_of(tmp_path / "data")
    assert ids(rows) == ["10", "11"]
    (where,) = reasons(rows)
    assert where.startswith("data-00000")
    assert where.endswith(":row 2")


@EITHER
def test_images_that_cannot_be_read_are_one_clear_line_each(tmp_path: Path, save: Save) -> None:
    save(dataset([png(), b"not a picture", bomb(), None, png()]), tmp_path / "data")
    source = open_source(str(tmp_path / "data"), "", 0, 48)
    items, _, bad = source.images(source.items())
    assert len(items) == 2
    found = [one.reason for one in bad]
    assert "cannot be read as an image" in found[0]
    assert "more than 64,000,000 pixels" in found[1]
    assert "the image is empty" in found[2]


@EITHER
def test_rows_without_a_caption_are_quarantined(tmp_path: Path, save: Save) -> None:
    save(dataset([png()] * 3, text=["a", None, " "]), tmp_path / "data")
    rows = rows_of(tmp_path / "data")
    assert len(ids(rows)) == 1
    assert len(reasons(rows)) == 2


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=4)
    return path


def test_images_may_be_plain_bytes_or_files_beside_the_table(tmp_path: Path) -> None:
    folder = folder_with_image(tmp_path)
    parquet(tmp_path / "bytes.parquet", image=[png()], caption=["a"])
    names = ["a.png", "../a.png", "/etc/passwd", "absent.png"]
    parquet(tmp_path / "names.parquet", file_name=names, text=["a", "b", "c", "d"])
    for name in ("bytes.parquet", "names.parquet"):
        source = open_source(str(folder / name), "", 0, 48)
        first, *others = source.items()
        assert source.image(first).shape == (48, 48, 3)
    assert [item.id for item in (first, *others)] == ["a.png", "absent.png"]
    assert len(reasons(rows_of(folder / "names.parquet"))) == 2


def test_a_name_inside_an_image_struct_is_confined(tmp_path: Path) -> None:
    folder = folder_with_image(tmp_path)
    images = [{"bytes": None, "path": one} for one in ("a.png", "../../secret.png", "/etc/passwd")]
    source = open_source(str(parquet(folder / "x.parquet", image=images, caption=list("abc"))), "", 0, 48)
    items, _, bad = source.images(source.items())
    assert [item.caption for item in items] == ["a"]
    assert all("outside the data set" in one.reason for one in bad)


def test_shards_are_read_in_order_and_images_in_any(tmp_path: Path) -> None:
    for shard in range(3):
        images = [png((60 * shard, 20 * i, 0)) for i in range(10)]
        captions = [f"{shard} {i}" for i in range(10)]
        parquet(tmp_path / f"data/train-{shard:05d}-of-00003.parquet", image=images, caption=captions)
    parquet(tmp_path / "data/test-00000-of-00001.parquet", image=[png()], caption=["held out by its makers"])
    source = open_source(str(tmp_path), "", 0, 48)
    rows = list(source.rows())
    assert [row.position for row in rows] == list(range(30))
    assert rows[12].where == "train-00001-of-00003.parquet:row 2"
    items = source.items()
    assert items[12].id == "train-00001-of-00003/2"
    for place in (0, 29, 12, 13, 3, 28, 0, 1):
        red, green, _ = source.image(items[place])[0, 0]
        assert (red, green) == (60 * (place // 10), 20 * (place % 10))


def test_a_table_without_the_columns_is_named_with_those_it_has(tmp_path: Path) -> None:
    good = parquet(tmp_path / "a.parquet", image=[png()], caption=["a"])
    parquet(tmp_path / "b.parquet", image=[png()], label=["a"])
    parquet(tmp_path / "c.parquet", image=[1], caption=["a"])
    rows = rows_of(tmp_path)
    assert len(ids(rows)) == 1
    found = reasons(rows)
    assert (
        "no column for the caption (caption, text, captions, title, comment); its columns are image, label"
        in found["b.parquet"]
    )
    assert "column image is int64" in found["c.parquet"]
    with pytest.raises(DataError, match="no column for the caption"):
        load_source(str(good.with_name("b.parquet")), "train", 0, 0, 48)


def test_a_torn_shard_costs_its_own_rows_alone(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        parquet(tmp_path / f"{name}.parquet", image=[png()] * 3, caption=[name] * 3)
    torn = tmp_path / "b.parquet"
    torn.write_bytes(torn.read_bytes()[:-10])
    rows = rows_of(tmp_path)
    assert ids(rows) == ["a/0", "a/1", "a/2", "c/0", "c/1", "c/2"]
    assert list(reasons(rows)) == ["b.parquet"]


def spoil(path: Path, group: int, column: int) -> None:
    """Overwrites one column of a row group with noise."""
    found = pq.ParquetFile(path).metadata.row_group(group).column(column)
    content = bytearray(path.read_bytes())
    start = found.dictionary_page_offset or found.data_page_offset
    content[start : start + found.total_compressed_size] = os.urandom(found.total_compressed_size)
    path.write_bytes(content)


def test_rows_open_no_image(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", image=[png()] * 12, caption=[f"{i}" for i in range(12)])
    spoil(path, 1, 0)
    source = open_source(str(path), "", 0, 48)
    items, _, bad = source.images(source.items())
    assert [item.id for item in items] == [f"a/{i}" for i in (0, 1, 2, 3, 8, 9, 10, 11)]
    assert all("cannot be read" in one.reason for one in bad)
    assert len(bad) == 4
    # On the way from the first row group to the third the damaged one is not read.
    assert source.image(items[0]).shape == source.image(items[6]).shape == (48, 48, 3)


def test_a_damaged_row_group_costs_its_own_rows_alone(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet", image=[png()] * 12, caption=[f"{i} {os.urandom(99)}" for i in range(12)]
    )
    spoil(path, 1, 1)
    rows = rows_of(path)
    assert ids(rows) == [f"a/{i}" for i in (0, 1, 2, 3, 8, 9, 10, 11)]
    assert list(reasons(rows)) == ["a.parquet:row group 1"]
    assert [row.position for row in rows if row.item] == [0, 1, 2, 3, 8, 9, 10, 11]


def test_text_that_is_not_unicode_costs_its_own_row_alone(tmp_path: Path) -> None:
    captions = pa.array([b"a", b"\xff\xfe", b"c"]).cast(pa.binary()).view(pa.string())
    rows = rows_of(parquet(tmp_path / "a.parquet", image=[png()] * 3, caption=captions))
    assert ids(rows) == ["a/0", "a/2"]
    assert "utf-8" in reasons(rows)["a.parquet:row 1"]


def test_saved_shards_are_read_in_the_order_of_their_state(tmp_path: Path) -> None:
    dataset([png((0, 10 * i, 0)) for i in range(20)]).save_to_disk(str(tmp_path / "d"), num_shards=3)
    source = open_source(str(tmp_path / "d"), "", 0, 48)
    items = source.items()
    assert [item.caption for item in items] == [f"caption {i}" for i in range(20)]
    for place in (19, 0, 13, 14):
        assert source.image(items[place])[0, 0, 1] == 10 * place


def test_a_saved_dictionary_gives_its_train_split_or_says_what_there_is(tmp_path: Path) -> None:
    one, two = dataset([png()], text=["train"]), dataset([png()], text=["test"])
    datasets.DatasetDict(train=one, test=two).save_to_disk(str(tmp_path / "both"))
    datasets.DatasetDict(validation=one, test=two).save_to_disk(str(tmp_path / "neither"))
    (row,) = rows_of(tmp_path / "both")
    assert row.item
    assert row.item.caption == "train"
    (row,) = rows_of(tmp_path / "both/test")
    assert row.item
    assert row.item.caption == "test"
    with pytest.raises(DataError, match=r"no train split; .* \(validation, test\)"):
        rows_of(tmp_path / "neither")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_torn_saved_shard_is_quarantined_from_where_it_is_torn(tmp_path: Path, kept: float) -> None:
    dataset([png()] * 40).save_to_disk(str(tmp_path / "d"), num_shards=2)
    torn = tmp_path / "d/data-00000-of-00002.arrow"
    torn.write_bytes(torn.read_bytes()[: int(kept * torn.stat().st_size)])
    rows = rows_of(tmp_path / "d")
    assert ids(rows) == [f"data-00001-of-00002/{i}" for i in range(20)]
    assert list(reasons(rows)) == ["data-00000-of-00002.arrow"]


def test_the_batches_before_a_tear_are_kept(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    torn = tmp_path / "d/data-00000-of-00001.arrow"
    table = pa.table({"image": [png()] * 40, "caption": ["a"] * 40})
    with pa.ipc.new_stream(str(torn), table.schema) as stream:
        stream.write_table(table, max_chunksize=10)
    (tmp_path / "d/state.json").write_text(json.dumps({"_data_files": [{"filename": torn.name}]}))
    torn.write_bytes(torn.read_bytes()[: int(0.8 * torn.stat().st_size)])
    source = open_source(str(tmp_path / "d"), "", 0, 48)
    rows = list(source.rows())
    assert ids(rows) == [f"data-00000-of-00001/{i}" for i in range(30)]
    assert [(row.position, row.where) for row in rows if row.item is None] == [(30, torn.name)]
    assert source.image(source.items()[29]).shape == (48, 48, 3)


def test_a_shard_that_ends_between_batches_is_known_by_its_missing_mark(tmp_path: Path) -> None:
    dataset([png()] * 4).save_to_disk(str(tmp_path / "d"))
    torn = tmp_path / "d/data-00000-of-00001.arrow"
    torn.write_bytes(torn.read_bytes()[:-8])
    rows = rows_of(tmp_path / "d")
    assert len(ids(rows)) == 4
    assert "no end mark" in next(iter(reasons(rows).values()))


def test_a_state_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    dataset([png()]).save_to_disk(str(tmp_path / "d"))
    state = tmp_path / "d/state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../secret.arrow"}]}))
    with pytest.raises(DataError, match="outside its folder"):
        rows_of(tmp_path / "d")
    state.write_text("{")
    with pytest.raises(DataError, match="not as `save_to_disk` writes it"):
        rows_of(tmp_path / "d")
