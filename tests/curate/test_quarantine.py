"""Bad rows and unreadable images do not stop a curation, unless there are too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from colour_model import ColourModel, LengthSimilarity
from curating import curate_here
from data_sets import QUESTION, folder_with_image, png, write_lines

from curate.config import CurateConfig
from curate.scoring.scorers import Scorers
from curate.sources import load_source
from curate.store.files import PAIRS, QUARANTINE, SUMMARY, read_records
from curate.store.outcomes import QuarantinedRow, Sampled
from curate.store.shards import read_outcomes
from curate.store.summary import CurateSummary
from engine.errors import DataError
from engine.records import Preference, SampledCaption


def row(name: str, **changes: object) -> dict[str, object]:
    return {
        "id": name,
        "image": f"{name}.png",
        "caption": f"caption {name}",
        "questions": [QUESTION],
        **changes,
    }


def curated(data: Path, run: Path, retry_failed: bool = False, **settings: object) -> CurateSummary:
    config = msgspec.convert({"n": 2, "limit": 0, "chunk": 2, **settings}, CurateConfig)
    source = load_source(str(data), "train", config.limit, 0, 48, config.select)
    scorers = Scorers(LengthSimilarity(), LengthSimilarity())
    return curate_here(ColourModel(), scorers, source, config, run, retry_failed=retry_failed)


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
    folder = folder_with_image(tmp_path / "data", *(f"{name}.png" for name in "abcde"))
    (folder / "broken.png").write_bytes(b"not a picture")
    write_lines(folder / "items.jsonl", rows)
    return folder


def test_unreadable_images_are_quarantined_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    summary = curated(data, tmp_path / "run")
    assert [one.id for one in read_records(tmp_path / "run" / PAIRS, Preference)] == ["a", "c", "e"]
    assert summary.items == 3
    assert [(one.where, one.id) for one in summary.quarantined] == [
        ("items.jsonl:2", "b"),
        ("items.jsonl:3", ""),
        ("items.jsonl:6", "d"),
        ("items.jsonl:8", ""),
    ]
    assert "no such file" in summary.quarantined[0].reason
    assert "cannot be read as an image" in summary.quarantined[2].reason
    assert tuple(read_records(tmp_path / "run" / QUARANTINE, QuarantinedRow)) == summary.quarantined
    assert sum(summary.questions_left_out.values()) == 1
    assert summary.no_image_pair["no questions to score images with"] == 1
    # The model says yes to everything, which is right of all that is asked.
    assert summary.mean_self_vqa == 1
    assert msgspec.json.decode((tmp_path / "run" / SUMMARY).read_bytes(), type=CurateSummary) == summary


def test_what_no_question_can_score_is_neither_generated_nor_given_a_score(
    data: Path, tmp_path: Path
) -> None:
    curated(data, tmp_path / "run")
    images = {
        one.item.id: len(one.item.images)
        for one in read_outcomes(tmp_path / "run")
        if isinstance(one, Sampled)
    }
    assert images == {"a": 2, "c": 0, "e": 2}
    write_lines(data / "items.jsonl", [row(name, questions=[]) for name in "ace"])
    alone = curated(data, tmp_path / "alone")
    assert (alone.items, alone.caption_pairs, alone.image_pairs) == (3, 3, 0)
    assert alone.mean_similarity is not None
    assert alone.mean_self_vqa is None
    assert alone.no_image_pair == {"no questions to score images with": 3}


def test_a_curation_of_bad_rows_alone_fails_and_leaves_no_pairs(data: Path, tmp_path: Path) -> None:
    write_lines(data / "items.jsonl", [row(name, image="later.png") for name in "abcd"])
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"no row can be used, all 4 .*; the first: items\.jsonl:1: .*no such"
        ):
            curated(data, tmp_path / "run")
        assert not (tmp_path / "run" / PAIRS).exists()
        assert len([*read_records(tmp_path / "run" / QUARANTINE, QuarantinedRow)]) == 4
    (data / "later.png").write_bytes(png())
    assert curated(data, tmp_path / "run", retry_failed=True).items == 4


def test_what_was_cut_is_counted_and_kept(data: Path, tmp_path: Path) -> None:
    class Wordy(ColourModel):
        """Comes to an end in every second caption alone."""

        def caption(self, *given: Any) -> list[list[SampledCaption]]:
            return [
                [msgspec.structs.replace(one, ended=i % 2 == 1) for i, one in enumerate(row)]
                for row in super().caption(*given)
            ]

    config, scorers = CurateConfig(n=4, limit=0), Scorers(LengthSimilarity(), LengthSimilarity())
    source = load_source(str(data), "train", 0, 0, 48)
    summary = curate_here(Wordy(), scorers, source, config, tmp_path / "run")
    assert (summary.items, summary.cut_captions) == (3, 6)
    (first, *_) = read_records(tmp_path / "run" / PAIRS, Preference)
    assert first.captions
    sides = (first.captions.win, first.captions.lose)
    assert [one.ended for one in sides] == [one.index % 2 == 1 for one in sides]
    assert (tmp_path / "run" / PAIRS).read_text().count('"ended"') == sum(
        not one.ended
        for each in read_records(tmp_path / "run" / PAIRS, Preference)
        if each.captions
        for one in (each.captions.win, each.captions.lose)
    )


def test_an_image_that_was_mended_is_curated_where_what_failed_is_tried_again(
    data: Path, tmp_path: Path
) -> None:
    first = curated(data, tmp_path / "run")
    (data / "broken.png").write_bytes(png())
    assert curated(data, tmp_path / "run") == first
    again = curated(data, tmp_path / "run", retry_failed=True)
    assert (again.items, [one.id for one in again.quarantined]) == (4, ["b", "", ""])
    whole = curated(data, tmp_path / "whole")
    for name in (PAIRS, QUARANTINE):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert whole.items == 4


@pytest.mark.parametrize(
    ("max_bad", "words"),
    [
        ("1", "2 of 7 rows are bad"),
        ("20%", "4 of 7 rows are bad"),
        ("3", "4 of 7 rows are bad"),
    ],
)
def test_too_many_bad_rows_or_images_stop_the_run(
    data: Path, tmp_path: Path, max_bad: str, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        curated(data, tmp_path / "run", max_bad=max_bad)
    assert f"--max-bad {max_bad}" in str(caught.value)
    assert "the first: items.jsonl:" in str(caught.value)


@pytest.mark.parametrize("max_bad", ["4", "58%"])
def test_as_many_bad_rows_as_are_allowed_do_not(data: Path, tmp_path: Path, max_bad: str) -> None:
    assert curated(data, tmp_path / "run", max_bad=max_bad).items == 3


def test_rows_of_a_selection_are_judged_against_the_selection(tmp_path: Path) -> None:
    rows: list[object] = [row(str(i), image="absent.png") for i in range(200)]
    write_lines(folder_with_image(tmp_path / "data") / "items.jsonl", rows)
    with pytest.raises(DataError, match="10 of 10 rows are bad"):
        curated(tmp_path / "data", tmp_path / "run", select=10, max_bad="10%")
