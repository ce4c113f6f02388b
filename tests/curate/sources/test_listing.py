"""A folder of images with a listing: JSON lines or CSV, read leniently and confined."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from data_sets import QUESTION, RED, bomb, folder_with_image, ids, reasons, rows_of, write_lines
from hypothesis import given
from hypothesis import strategies as st

from curate.sources import load_source, open_source
from engine.errors import DataError


def row(name: str, **changes: object) -> dict[str, object]:
    return {"id": name, "image": "a.png", "caption": "red", "questions": [QUESTION], **changes}


def make_folder(folder: Path, rows: list[object]) -> Path:
    write_lines(folder_with_image(folder) / "items.jsonl", rows)
    return folder


def test_bad_rows_are_quarantined_with_their_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "data",
        [
            row("good"),
            "{not json",
            row("good"),
            row("outside", image="../secret.png"),
            row("absolute", image="/etc/passwd"),
            row("address", image="https://example.org/a.png"),
            row("no image", image=None),
            {"id": "no caption", "image": "a.png", "questions": []},
            row("blank caption", caption=" \n"),
            row("wrong caption", caption={"en": "red"}),
            row("wrong id", id=1.5),
            "[]",
            row("half a character", caption="\ud800"),
            row("extra", license="unknown fields are kept aside"),
        ],
    )
    rows = rows_of(folder)
    assert ids(rows) == ["good", "extra"]
    assert [row.position for row in rows] == list(range(14))
    found = reasons(rows)
    assert len(found) == 12
    for line, words in {
        2: "malformed",
        3: "occurs twice",
        4: "outside the data set",
        5: "outside the data set",
        6: "is an address",
        7: "image_name, filepath, file_path, filename) is missing",
        8: "caption (caption, text, captions, title, comment) is missing",
        9: "is empty",
        10: "is not text but {'en': 'red'}",
        11: "id is not text",
        12: "not a JSON object",
    }.items():
        assert words in found[f"items.jsonl:{line}"], line


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    folder = folder_with_image(tmp_path)
    text = "\ufeff" + json.dumps(row("a")) + "\r\n\r\n" + json.dumps(row("b"))
    (folder / "items.jsonl").write_text(text, newline="")
    rows = rows_of(folder)
    assert [(one.position, one.where) for one in rows] == [(0, "items.jsonl:1"), (1, "items.jsonl:3")]


def test_a_line_without_end_is_quarantined_without_being_held_whole(tmp_path: Path) -> None:
    folder = folder_with_image(tmp_path)
    huge = '{"caption": "' + "x" * (20 << 20) + '"}'
    rows = rows_of(write_lines(folder / "items.jsonl", [huge, row("after")]))
    assert ids(rows) == ["after"]
    assert reasons(rows) == {"items.jsonl:1": "more than 8 MiB in one row"}


def test_both_spellings_unicode_and_numbers_as_ids_are_read(tmp_path: Path) -> None:
    rows: list[object] = [
        {"file_name": "a.png", "text": " ein roter Würfel, 红色 \n"},
        {
            "id": 7,
            "img_path": "./a.png",
            "caption": "b",
            "prompt": "cubes",
            "category": "colors",
            "objects": 2,
        },
    ]
    first, second = (one.item for one in rows_of(write_lines(folder_with_image(tmp_path) / "m.jsonl", rows)))
    assert first
    assert second
    assert (first.id, first.caption, first.prompt) == ("a.png", "ein roter Würfel, 红色", "")
    assert (second.id, second.prompt, second.category, second.objects) == ("7", "cubes", "colors", 2)


def test_a_csv_with_quoted_text_and_questions_is_read(tmp_path: Path) -> None:
    folder = folder_with_image(tmp_path)
    with (folder / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", "text", "questions", "objects"])
        writer.writerow(["a.png", 'red, "very"\nred', json.dumps([QUESTION]), "3"])
        writer.writerow(["../a.png", "outside", "", ""])
        writer.writerow(["a.png"])
        writer.writerow(["a.png", 'red, "very"\nred', "", ""])
    rows = rows_of(folder)
    item = rows[0].item
    assert item
    assert item.caption == 'red, "very"\nred'
    assert (item.questions[0].answer, item.objects) == ("yes", 3)
    found = reasons(rows)
    # A row is named by the line on which it starts.
    assert "outside" in found["metadata.csv:4"]
    assert found["metadata.csv:5"] == "1 columns where the header has 4"
    assert "occurs twice" in found["metadata.csv:6"]


def test_a_torn_csv_costs_its_last_row_alone(tmp_path: Path) -> None:
    folder = folder_with_image(tmp_path)
    (folder / "captions.csv").write_bytes(
        b'id,image,caption\n1,a.png,one\n2,a.png,\xff\n3,a.png,three\n4,a.png,"to'
    )
    rows = rows_of(folder)
    assert ids(rows) == ["1", "3"]
    assert "Unicode" in reasons(rows)["captions.csv:3"]
    assert "malformed" in reasons(rows)["captions.csv:5"]


ENDINGS = st.sampled_from([".png", ".jfif", ".ppm", ""])
TEXTS = st.lists(st.text('ab,"\n ', min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=8)


@given(TEXTS, st.data(), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), ENDINGS)
def test_a_quotation_mark_that_is_never_closed_costs_its_own_row_alone(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject, quoting: int, ending: str
) -> None:
    broken = data.draw(st.sets(st.integers(0, len(texts) - 1)))
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=quoting, lineterminator="\n")
    writer.writerow(["file_name", "text"])
    for number, text in enumerate(texts):
        if number in broken:
            stream.write(f'{number}{ending},"never closed\n')
        else:
            writer.writerow([f"{number}{ending}", text])
    path = tmp_path_factory.mktemp("data") / "metadata.csv"
    path.write_text(stream.getvalue(), newline="")
    rows = rows_of(path)
    good = [(f"{number}{ending}", text.strip()) for number, text in enumerate(texts) if number not in broken]
    assert [(row.item.image, row.item.caption) for row in rows if row.item] == good
    assert len(reasons(rows)) == len(broken)


@pytest.mark.parametrize("ending", [".png", ".jfif", ".ppm", ""])
@pytest.mark.parametrize("closed", ['5"', '"'])
def test_rows_between_two_stray_quotation_marks_are_not_swallowed(
    tmp_path: Path, ending: str, closed: str
) -> None:
    texts = ["one", '"never closed', "three", "four", f"wide {closed}", "six"]
    lines = [f"im{number}{ending},{text}\n" for number, text in enumerate(texts)]
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(lines))
    rows = rows_of(tmp_path)
    assert [row.item.caption for row in rows if row.item] == ["one", "three", "four", texts[4], "six"]
    assert list(reasons(rows)) == ["metadata.csv:3"]


def test_a_csv_without_a_caption_column_is_refused_with_its_columns(tmp_path: Path) -> None:
    (folder_with_image(tmp_path) / "metadata.csv").write_text("file_name,label\na.png,3\n")
    with pytest.raises(DataError, match=r"no column for the caption .*; its columns are file_name, label"):
        rows_of(tmp_path)


def test_rows_open_no_image(tmp_path: Path) -> None:
    rows = rows_of(write_lines(tmp_path / "items.jsonl", [row("absent")]))
    assert ids(rows) == ["absent"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken.png", "cannot be read as an image"),
        ("absent.png", "no such file"),
        ("folder.png", "no such file"),
        ("pipe.png", "no such file"),
        ("bomb.png", "more than 64,000,000 pixels"),
        ("link.png", "outside the data set's folder by a symbolic link"),
        ("linked/secret.png", "outside the data set's folder by a symbolic link"),
        ("x" * 300 + ".png", "no such file"),
        ("x/" * 2500 + "x.png", "no such file"),
    ],
)
def test_an_image_that_cannot_be_read_is_one_clear_line(tmp_path: Path, name: str, words: str) -> None:
    folder = make_folder(tmp_path / "data", [row("a", image=name)])
    (folder / "broken.png").write_bytes(b"not a picture")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    elsewhere = folder_with_image(tmp_path / "elsewhere")
    (elsewhere / "a.png").rename(elsewhere / "secret.png")
    (folder / "link.png").symlink_to(elsewhere / "secret.png")
    (folder / "linked").symlink_to(elsewhere)
    source = open_source(str(folder), "", 0, 48)
    (item,) = source.items()
    with pytest.raises(DataError) as caught:
        source.image(item)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_links_inside_the_folder_and_a_linked_folder_are_followed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", [row("a", image="link.png")])
    (folder / "link.png").symlink_to("a.png")
    (tmp_path / "alias").symlink_to(folder)
    source = open_source(str(tmp_path / "alias"), "", 0, 48)
    assert source.image(source.items()[0]).shape == (48, 48, 3)


def test_images_come_square_and_of_the_models_size(tmp_path: Path) -> None:
    source = load_source(str(make_folder(tmp_path / "data", [row("a")])), "train", 0, 0, 48)
    pixels = source.image(source.items()[0])
    assert pixels.shape == (48, 48, 3)
    assert (np.abs(pixels.astype(int) - RED) <= 1).all()
    assert not source.oracle


def test_a_listing_without_a_usable_row_is_an_error_that_shows_the_first_problem(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", ["[]"])
    with pytest.raises(DataError, match=r"no usable item .* items\.jsonl:1"):
        load_source(str(folder), "train", 0, 0, 48)
