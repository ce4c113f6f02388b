"""A folder of images with a listing: read leniently, confined, split, quarantined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.sources import load_source
from engine.errors import DataError

QUESTION = {"question": "is it red?", "choices": ["yes", "no"], "answer": "yes", "kind": "color"}


def make_folder(folder: Path, rows: list[object]) -> Path:
    folder.mkdir()
    Image.new("RGB", (80, 60), (200, 30, 30)).save(folder / "a.png")
    (folder / "broken.png").write_bytes(b"not a picture")
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def row(name: str, **changes: object) -> dict[str, object]:
    return {"id": name, "image": "a.png", "caption": "red", "questions": [QUESTION], **changes}


def test_bad_rows_are_quarantined_with_their_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "data",
        [
            row("good"),
            "{not json",
            row("good"),
            row("outside", image="../secret.png"),
            row("broken", image="broken.png"),
            row("absent", image="b.png"),
            row("unanswerable", questions=[{**QUESTION, "answer": "maybe"}]),
            row("blank", questions=[{**QUESTION, "choices": ["yes", " "]}]),
            {"id": "no caption", "image": "a.png", "questions": []},
            row("extra", license="unknown fields are kept aside"),
        ],
    )
    source = load_source(str(folder), "train", 0, 0, 48)
    assert [item.id for item in source.items] == ["good", "extra"]
    reasons = {bad.where: bad.reason for bad in source.quarantined}
    assert len(reasons) == 8
    assert "occurs twice" in reasons["items.jsonl:3"]
    assert "outside the data set" in reasons["items.jsonl:4"]
    assert "cannot be read" in reasons["items.jsonl:5"]
    assert "not among the choices" in reasons["items.jsonl:7"]
    assert "a choice of 'is it red?' is empty" in reasons["items.jsonl:8"]


def test_training_and_held_out_items_never_meet(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", [row(f"{i}") for i in range(23)])
    train = {item.id for item in load_source(str(folder), "train", 0, 0, 48).items}
    held_out = {item.id for item in load_source(str(folder), "evaluation", 0, 0, 48).items}
    assert not train & held_out
    assert len(train | held_out) == 23
    assert len(load_source(str(folder), "train", 4, 0, 48).items) == 4


def test_images_come_square_and_of_the_models_size(tmp_path: Path) -> None:
    source = load_source(str(make_folder(tmp_path / "data", [row("a")])), "train", 0, 0, 48)
    pixels = source.image(source.items[0])
    assert pixels.shape == (48, 48, 3)
    assert (np.abs(pixels.astype(int) - [200, 30, 30]) <= 1).all()
    assert not source.oracle


def test_a_listing_without_a_usable_row_is_an_error_that_shows_the_first_problem(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", ["[]"])
    with pytest.raises(DataError, match=r"no usable item .* items\.jsonl:1"):
        load_source(str(folder), "train", 0, 0, 48)
