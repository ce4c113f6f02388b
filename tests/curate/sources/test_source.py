"""What all kinds of data sets have in common: splits, limits, ids that occur once, counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_sets import QUESTION, folder_with_image, png, write_lines

from curate.shapes import world
from curate.sources import load_source, open_source
from curate.sources.source import SourceCounts
from engine.errors import DataError


def make(folder: Path, rows: list[object]) -> str:
    write_lines(folder_with_image(folder) / "items.jsonl", rows)
    return str(folder)


def row(number: int, **changes: object) -> dict[str, object]:
    return {"id": number, "image": f"{number}.png", "caption": "red", "questions": [QUESTION], **changes}


def test_training_and_held_out_items_never_meet(tmp_path: Path) -> None:
    data = make(tmp_path, [row(i) for i in range(23)])
    train = {item.id for item in load_source(data, "train", 0, 0, 48).items()}
    held_out = {item.id for item in load_source(data, "evaluation", 0, 0, 48).items()}
    assert held_out == {"4", "9", "14", "19"}
    assert not train & held_out
    assert len(train | held_out) == 23
    assert len(load_source(data, "train", 4, 0, 48).items()) == 4


def test_a_damaged_row_moves_no_other_row_to_another_split(tmp_path: Path) -> None:
    rows: list[object] = [row(i) for i in range(23)]
    before = load_source(make(tmp_path / "a", rows), "evaluation", 0, 0, 48).items()
    rows[2] = "damaged"
    assert load_source(make(tmp_path / "b", rows), "evaluation", 0, 0, 48).items() == before


def test_an_id_of_both_splits_is_used_once(tmp_path: Path) -> None:
    data = make(tmp_path, [row(0), row(1), row(2), row(3), row(0), *(row(i) for i in range(5, 10))])
    assert [item.id for item in load_source(data, "evaluation", 0, 0, 48).items()] == ["9"]


def test_the_first_usable_row_of_an_id_counts(tmp_path: Path) -> None:
    data = make(tmp_path, [row(0, caption=""), row(0, caption="second"), row(0, image="b.png")])
    rows = list(open_source(data, "", 0, 48).rows())
    assert [one.item.caption if one.item else one.reason for one in rows][1] == "second"
    assert "occurs twice" in rows[2].reason


def test_rows_can_be_read_again_and_stay_the_same(tmp_path: Path) -> None:
    source = open_source(make(tmp_path, [row(i % 7) for i in range(23)]), "train", 0, 48)
    assert list(source.rows()) == list(source.rows())


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    data = make(tmp_path, [row(0)])
    with pytest.raises(DataError, match="no split 'validation', only train, evaluation"):
        open_source(data, "validation", 0, 48)
    with pytest.raises(DataError, match="no split 'test'"):
        open_source("shapes", "test", 0, 48)


def test_a_source_knows_its_rows_and_its_items_with_questions(tmp_path: Path) -> None:
    bad = {**QUESTION, "answer": "maybe"}
    data = make(tmp_path, [row(0), row(1, questions=[bad]), row(2, questions=[]), "damaged", row(3)])
    source = load_source(data, "", 0, 0, 48)
    assert source.counts == SourceCounts(rows=5, items=4, with_questions=2)
    assert [len(item.questions) for item in source.items()] == [1, 0, 0, 1]
    assert [len(one.dropped) for one in source.rows()] == [0, 1, 0, 0, 0]


def test_items_whose_image_cannot_be_read_are_told_from_the_others(tmp_path: Path) -> None:
    data = make(tmp_path, [row(0, image="a.png"), row(1), row(2, image="b.png")])
    (tmp_path / "b.png").write_bytes(png((0, 0, 200)))
    source = open_source(data, "", 0, 48)
    items, pixels, bad = source.images(source.items())
    assert [item.id for item in items] == ["0", "2"]
    assert pixels.shape == (2, 48, 48, 3)
    assert pixels[1, 0, 0, 2] > 190
    assert [one.where for one in bad] == ["1"]
    assert "1.png" in bad[0].reason
    assert source.images([])[1].shape == (0, 48, 48, 3)


def test_the_shapes_have_splits_of_their_own_and_their_own_pixels() -> None:
    source = load_source("shapes", "validation", 5, 3, 48)
    assert [item.id for item in source.items()] == [f"shapes-validation-3-{i:06d}" for i in range(5)]
    assert source.oracle
    first = source.items()[0]
    np.testing.assert_array_equal(source.image(first), world.image_of(first.id))
    with pytest.raises(DataError, match="endless"):
        load_source("shapes", "train", 0, 0, 48)
