"""Bad rows and unreadable images do not stop a curation, unless there are too many."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from colour_model import ColourModel, LengthSimilarity
from data_sets import QUESTION, folder_with_image, png, write_lines

from curate.config import CurateConfig
from curate.pipeline import CurateSummary, curate
from curate.sources import load_source
from curate.store import PAIRS, SUMMARY, read_records
from engine.errors import DataError
from engine.records import Preference


def row(name: str, **changes: object) -> dict[str, object]:
    return {"id": name, "image": "a.png", "caption": f"caption {name}", "questions": [QUESTION], **changes}


def curated(data: Path, run: Path, **settings: object) -> CurateSummary:
    config = msgspec.convert({"n": 2, "limit": 0, "chunk": 2, **settings}, CurateConfig)
    source = load_source(str(data), "train", config.limit, 0, 48, config.select)
    return curate(ColourModel(), LengthSimilarity(), source, config, run, 1, 0, {}, lambda done, note: None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seven training rows of which two are bad, and two of the others have no image."""
    rows: list[object] = [
        row("a"),
        row("b", image="absent.png"),
        "damaged",
        row("c", questions=[{**QUESTION, "answer": "maybe"}]),
        row("held out"),
        row("d", image="broken.png"),
        row("e"),
        row("f", caption=""),
    ]
    folder = folder_with_image(tmp_path / "data")
    (folder / "broken.png").write_bytes(b"not a picture")
    write_lines(folder / "items.jsonl", rows)
    return folder


def test_unreadable_images_are_quarantined_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    summary = curated(data, tmp_path / "run")
    assert [one.id for one in read_records(tmp_path / "run" / PAIRS, Preference)] == ["a", "c", "e"]
    assert summary.items == 3
    assert [one.where for one in summary.quarantined] == ["items.jsonl:3", "items.jsonl:8", "b", "d"]
    assert "no such file" in summary.quarantined[2].reason
    assert "cannot be read as an image" in summary.quarantined[3].reason
    assert (summary.dropped_questions, summary.without_questions) == (1, 1)
    assert summary.no_image_pair["no questions to score images with"] == 1
    # The model says yes to everything, which is right of all that is asked.
    assert summary.mean_self_vqa == 1
    assert msgspec.json.decode((tmp_path / "run" / SUMMARY).read_bytes(), type=CurateSummary) == summary


def test_an_image_that_was_mended_is_curated_when_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    curated(data, tmp_path / "run")
    (data / "broken.png").write_bytes(png())
    assert [one.where for one in curated(data, tmp_path / "run").quarantined][-1] == "b"
    assert curated(data, tmp_path / "run").items == 4


@pytest.mark.parametrize(
    ("max_bad", "words"),
    [
        ("1", "2 of 7 rows are bad"),
        ("20%", "2 of 7 rows are bad"),
        ("3", "4 of 7 rows are bad"),
        ("30%", "3 of 7 rows are bad"),
    ],
)
def test_too_many_bad_rows_or_images_stop_the_run(
    data: Path, tmp_path: Path, max_bad: str, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        curated(data, tmp_path / "run", max_bad=max_bad)
    assert f"--max-bad {max_bad}" in str(caught.value)
    assert "items.jsonl:3: JSON is malformed" in str(caught.value)


@pytest.mark.parametrize("max_bad", ["4", "58%"])
def test_as_many_bad_rows_as_are_allowed_do_not(data: Path, tmp_path: Path, max_bad: str) -> None:
    assert curated(data, tmp_path / "run", max_bad=max_bad).items == 3


def test_unreadable_images_of_a_selection_are_judged_against_the_selection(tmp_path: Path) -> None:
    rows: list[object] = [row(str(i), image="absent.png") for i in range(200)]
    write_lines(folder_with_image(tmp_path / "data") / "items.jsonl", rows)
    with pytest.raises(DataError, match="2 of 10 rows are bad"):
        curated(tmp_path / "data", tmp_path / "run", select=10, max_bad="10%")
