"""Pairs of other tools: what is taken, what is quarantined and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate.exchange.importing import import_pairs
from curate.exchange.tokenizers import Tokenizers
from curate.shapes import world
from curate.store.files import IMPORTED, PAIRS, QUARANTINE, SUMMARY, read_records
from engine.errors import ConfigError, DataError
from engine.records import Preference

Import = Callable[..., list[Preference]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images 0.png to 3.png of scenes, a broken one, and one outside the folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(4):
        picture(index).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    picture(0).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    return folder


def picture(index: int) -> Image.Image:
    return Image.fromarray(np.array(world.image_of(world.item("train", 0, index)[0].id)))


@pytest.fixture
def take(data: Path, curation: Path, tokenizers: Tokenizers) -> Import:
    """Writes rows into a file of the data folder, imports it, and gives the preferences."""

    def taken(name: str, rows: str | list[dict[str, Any]], **options: Any) -> list[Preference]:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        (data / name).write_text(text)
        import_pairs(data / name, curation, tokenizers, 1, **options)
        return list(read_records(curation / PAIRS, Preference))

    return taken


def reasons(curation: Path) -> dict[str, str]:
    lines = (curation / QUARANTINE).read_text().splitlines()
    return {one["where"].partition(":")[2]: one["reason"] for one in map(json.loads, lines)}


def official(**changes: Any) -> dict[str, Any]:
    row = {
        "id": 7,
        "img_path": "0.png",
        "prompt": "",
        "caption": "a red circle",
        "caption_win": " a circle",
        "caption_lose": "two squares",
        "bert_score_win": 0.9,
        "bert_score_lose": 0.4,
        "image_win": "1.png",
        "image_lose": "2.png",
        "vqa_score_win": 1.0,
        "vqa_score_lose": 0.5,
    }
    return {name: value for name, value in {**row, **changes}.items() if value is not ...}


@pytest.mark.parametrize("ends", [("[\n", ",\n]"), ("", ",\n"), ("[", "]"), ("", ',\n{"id": 9, "img_pa')])
def test_an_official_file_is_read_however_the_scripts_left_it(
    ends: tuple[str, str], take: Import, curation: Path, tokenizers: Tokenizers
) -> None:
    rows = ",\n".join(json.dumps(official(id=i), indent=4) for i in (7, 8))
    first, second = take("pair_dpo_data.json", ends[0] + rows + ends[1])
    assert (first.id, second.id) == ("7", "8")
    assert first.captions is not None
    assert first.images is not None
    assert first.captions.win.text == "a circle"
    assert first.captions.win.token_ids == tokenizers.token_ids("a circle")
    assert (first.captions.win.score, first.captions.lose.score) == (0.9, 0.4)
    assert (first.images.win.score, first.images.lose.score) == (1.0, 0.5)
    assert first.image_codes == tokenizers.image_tokens(picture(0)).codes
    assert first.images.lose.codes == tokenizers.image_tokens(picture(2)).codes
    assert (first.images.win_round, first.captions.lose_round) == (1, 1)
    assert ("object 3" in reasons(curation)) == ends[1].endswith("img_pa")


def test_rows_that_cannot_be_used_are_quarantined_with_their_reason_and_the_rest_goes_on(
    take: Import, curation: Path
) -> None:
    one_sided = {"image_win": ..., "image_lose": ...}
    rows = [
        official(id="good"),
        official(id="absent", img_path="9.png", **one_sided),
        official(id="outside", img_path="../secret.png", **one_sided),
        official(id="absolute", img_path="/etc/hostname", **one_sided),
        official(id="link", img_path="link.png", **one_sided),
        official(id="broken", img_path="broken.png", **one_sided),
        official(id="empty", caption_win="  ", **one_sided),
        official(id="equal", caption_win="two squares", **one_sided),
        official(id="lower", bert_score_win=0.1, **one_sided),
        official(id="no number", bert_score_win="high", **one_sided),
        official(id="good"),
        official(id="long", caption_win="a " * 200, **one_sided),
        {"id": "other", "text": "of no format"},
        official(id="last"),
    ]
    kept = take("pairs.jsonl", rows)
    assert [one.id for one in kept] == ["good", "last"]
    expected = [
        "is missing",
        "lies outside the data set's folder",
        "lies outside the data set's folder",
        "by a symbolic link",
        "cannot be read as an image",
        "a caption is empty",
        "winner and loser are the same caption",
        "the winner scores lower than the loser",
        "a score is not a number",
        "its id occurred before: good",
        "longer than the model's",
        "of no known format: id, text",
    ]
    found = reasons(curation)
    assert list(found) == [f"object {i}" for i in range(2, 14)]
    for reason, words in zip(found.values(), expected, strict=True):
        assert words in reason
    imported = json.loads((curation / IMPORTED).read_text())
    assert (imported["rows"], imported["items"], imported["quarantined"]) == (14, 2, 12)


@pytest.mark.parametrize(
    ("changes", "side", "words"),
    [
        ({"image_lose": "9.png"}, "images", "image '9.png' is missing"),
        ({"image_lose": "1.png"}, "images", "winner and loser are the same image"),
        ({"vqa_score_win": 0.6, "vqa_score_lose": 0.2}, "images", "not above 0.6"),
        ({"vqa_score_win": 0.9, "vqa_score_lose": 0.9}, "images", "scores are equal"),
        ({"image_win": "https://a.org/1.png"}, "images", "is an address"),
        ({"caption": " "}, "images", "the caption is empty"),
        ({"caption_lose": ""}, "captions", "a caption is empty"),
        ({"img_path": "9.png"}, "captions", "image '9.png' is missing"),
    ],
)
def test_a_row_keeps_the_side_that_can_be_used(
    changes: dict[str, Any], side: str, words: str, take: Import, curation: Path
) -> None:
    (kept,) = take("pair_dpo_data.json", [official(**changes)])
    assert (kept.captions is None, kept.images is None) == (side == "captions", side == "images")
    assert words in (kept.caption_reason if side == "captions" else kept.image_reason)
    assert reasons(curation)["object 1"].startswith(f"{side}: ")
    imported = json.loads((curation / IMPORTED).read_text())
    assert (imported["quarantined"], imported["one_sided"]) == (0, 1)


def test_official_names_that_start_from_the_repository_are_found_beside_the_file(
    data: Path, take: Import
) -> None:
    (data / "generated_images/7").mkdir(parents=True)
    picture(3).save(data / "generated_images/7/5.png")
    name = "datasets/journydb/generated_images/7/5.png"
    (kept,) = take("pair_dpo_data.json", [official(img_path="datasets/journeydb/0.png", image_win=name)])
    assert kept.captions is not None
    assert kept.images is not None


def test_images_may_lie_in_another_folder(data: Path, tmp_path: Path, take: Import) -> None:
    (tmp_path / "more").mkdir()
    picture(3).save(tmp_path / "more/3b.png")
    (kept,) = take("pair_dpo_data.json", [official(image_win="3b.png")], images=(tmp_path / "more", data))
    assert kept.images is not None


def message(role: str, text: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "text", "text": text}]}]


def test_trl_rows_give_caption_pairs_scored_one_and_nought(
    take: Import, curation: Path, tokenizers: Tokenizers
) -> None:
    rows = [
        {
            "images": ["0.png"],
            "chosen": message("assistant", "a circle"),
            "rejected": message("assistant", "no"),
        },
        {"file_names": ["1.png"], "prompt": "what?", "chosen": "a circle", "rejected": "a square"},
        {"image": "2.png", "chosen": [{"role": "assistant", "content": "one"}], "rejected": "two"},
        {"images": ["0.png", "1.png"], "chosen": "a", "rejected": "b"},
        {"images": [], "chosen": "a", "rejected": "b"},
        {"images": ["3.png"], "chosen": message("assistant", ""), "rejected": "b"},
    ]
    kept = take("metadata.jsonl", rows)
    assert [one.captions.win.text for one in kept if one.captions] == ["a circle", "a circle", "one"]
    assert kept[0].image_codes == tokenizers.image_tokens(picture(0)).codes
    assert {(one.captions.win.score, one.captions.lose.score) for one in kept if one.captions} == {(1.0, 0.0)}
    assert len({one.id for one in kept}) == 3
    assert [reason.partition(":")[0] for reason in reasons(curation).values()] == [
        "needs exactly one image",
        "needs exactly one image",
        "a caption is empty",
    ]


def test_trl_tables_with_embedded_images_are_read(data: Path, curation: Path, tokenizers: Tokenizers) -> None:
    image = {"bytes": (data / "1.png").read_bytes(), "path": None}
    broken = {"bytes": b"no picture", "path": "x.png"}
    row = {"chosen": message("assistant", "a circle"), "rejected": message("assistant", "a square")}
    pq.write_table(
        pa.Table.from_pylist([{"images": [one], **row} for one in (image, broken)]), data / "train.parquet"
    )
    imported = import_pairs(data, curation, tokenizers, 3)
    (kept,) = read_records(curation / PAIRS, Preference)
    assert kept.image_codes == tokenizers.image_tokens(picture(1)).codes
    assert kept.captions is not None
    assert kept.captions.win_round == imported.round == 3
    assert "cannot be read as an image" in reasons(curation)["row 2"]


def test_align_anything_gives_pairs_of_both_kinds(data: Path, curation: Path, tokenizers: Tokenizers) -> None:
    told = {"image": "0.png", "better_response": "a circle", "worse_response": "a square"}
    generated = [
        {"prompt": "a circle", "better_image": "1.png", "worse_image": name} for name in ("2.png", "1.png")
    ]
    (data / "image_to_text.json").write_text(json.dumps([{"question": "?", **told}, {"prompt": "?", **told}]))
    (data / "text_to_image.json").write_text(json.dumps(generated))
    imported = import_pairs(data, curation, tokenizers, 1)
    assert (imported.caption_pairs, imported.image_pairs, imported.quarantined) == (2, 1, 1)
    *_, last = read_records(curation / PAIRS, Preference)
    assert last.caption == "a circle"
    assert last.images is not None
    assert last.images.win.codes == tokenizers.image_tokens(picture(1)).codes
    assert reasons(curation) == {"object 2": "images: winner and loser are the same image"}


def test_the_columns_of_align_anythings_published_preferences_are_read(
    take: Import, curation: Path, tokenizers: Tokenizers
) -> None:
    told = {"question": "?", "image": "0.png", "response_1": "a circle", "response_2": "a square"}
    painted = {"prompt": "a circle", "image_1": "1.png", "image_2": "2.png", "overall_image": 2.0}
    rows = [
        {**told, "overall_response": 1},
        {**told, "overall_response": "2"},
        painted,
        {**told, "overall_response": 0},
        told,
    ]
    first, second, third = take("preferences.jsonl", rows)
    assert first.captions is not None
    assert second.captions is not None
    assert third.images is not None
    assert [one.captions.win.text for one in (first, second) if one.captions] == ["a circle", "a square"]
    assert third.images.win.codes == tokenizers.image_tokens(picture(2)).codes
    assert third.caption == "a circle"
    assert reasons(curation) == {
        "object 4": "neither side is preferred: overall is '0', not 1 or 2",
        "object 5": "a caption is missing",
    }


def test_a_text_that_is_null_or_no_unicode_is_missing_and_never_ends_the_import(
    take: Import, curation: Path
) -> None:
    rows = [
        official(id=1, caption_win=[{"content": [{"type": "text", "text": None}]}]),
        official(id=2, caption_win=[{"content": [{"type": "text", "text": 3}]}]),
        official(id=3, caption_lose="\ud800"),
        official(id="\udfff"),
        official(id=5, img_path="\udfff.png"),
        official(id=6, bert_score_win=10**400),
        {"id": "\ud800", "image_codes": [], "caption": "a", "captions": None, "images": None},
        {"\ud800": 1},
        {**official(id=8), "caption_win": [{"content": [{"type": "text"}, {"type": "text", "text": "a b"}]}]},
    ]
    kept = take("pairs.jsonl", rows)
    assert [one.id for one in kept if one.captions] == ["8"]
    found = reasons(curation)
    assert found["object 1"] == found["object 2"] == "captions: a caption is missing"
    assert "not valid Unicode" in found["object 3"]
    assert "the id" in found["object 4"]
    assert "is missing" in found["object 5"]
    assert "a score is not a number" in found["object 6"]
    assert "not a native record" in found["object 7"]
    assert "of no known format" in found["object 8"]


def test_the_files_say_where_the_pairs_came_from_and_what_they_are(
    data: Path, take: Import, curation: Path
) -> None:
    kept = take("pair_dpo_data.json", [official(id=1), official(id=2, image_win="9.png")])
    imported = json.loads((curation / IMPORTED).read_text())
    assert imported["source"] == "pair_dpo_data.json"
    assert imported["formats"] == ["official"]
    assert str(data) not in (curation / IMPORTED).read_text()
    summary = json.loads((curation / SUMMARY).read_text())
    assert (summary["items"], summary["caption_pairs"], summary["image_pairs"]) == (2, 2, 1)
    assert summary["no_image_pair"] == {"image '9.png' is missing": 1}
    assert (curation / PAIRS).read_bytes() == b"".join(msgspec.json.encode(one) + b"\n" for one in kept)


def test_a_changed_file_has_another_digest(data: Path, tmp_path: Path, tokenizers: Tokenizers) -> None:
    found = []
    for number, score in enumerate((0.9, 0.8)):
        (data / "a.json").write_text(json.dumps([official(bert_score_win=score)]))
        found.append(import_pairs(data / "a.json", tmp_path / str(number), tokenizers, 1))
    assert found[0].digest != found[1].digest
    assert found[0].pairs != found[1].pairs


@pytest.mark.parametrize(
    ("name", "content", "options", "error", "words"),
    [
        ("a.json", "[]", {}, DataError, "no row can be used; the first: there is no row"),
        (
            "a.json",
            '{"x": 1}',
            {},
            DataError,
            "the first: a.json:object 1: its fields are of no known format: x",
        ),
        ("a.parquet", "text", {}, DataError, "a.parquet: cannot be read as Parquet"),
        (
            "a.json",
            "[]",
            {"form": "ms-swift"},
            ConfigError,
            "--format ms-swift: not known; known are official",
        ),
    ],
)
def test_a_source_without_a_usable_row_is_one_clear_error_and_leaves_no_pairs(
    name: str,
    content: str,
    options: dict[str, str],
    error: type[Exception],
    words: str,
    take: Import,
    curation: Path,
) -> None:
    with pytest.raises(error, match=words.replace(".", r"\.")):
        take(name, content, **options)
    assert not (curation / PAIRS).exists()


def test_a_folder_without_rows_is_refused(tmp_path: Path, curation: Path, tokenizers: Tokenizers) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no pairs here; name a \.json"):
        import_pairs(tmp_path / "empty", curation, tokenizers, 1)


@pytest.mark.parametrize("taken", ["pairs.jsonl", "origin.json"])
def test_a_curated_round_is_not_overwritten(
    taken: str, data: Path, curation: Path, tokenizers: Tokenizers
) -> None:
    curation.mkdir(parents=True)
    (curation / taken).write_text("mine")
    (data / "a.json").write_text(json.dumps([official()]))
    with pytest.raises(DataError, match=f"holds {taken} already"):
        import_pairs(data / "a.json", curation, tokenizers, 1)
    assert (curation / taken).read_text() == "mine"


def test_an_interrupted_import_leaves_no_pairs_and_the_next_one_completes(
    data: Path, curation: Path, tokenizers: Tokenizers
) -> None:
    (data / "a.json").write_text(json.dumps([official(id=i) for i in range(3)]))

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_pairs(data / "a.json", curation, tokenizers, 1, progress=interrupt)
    assert not (curation / PAIRS).exists()
    assert import_pairs(data / "a.json", curation, tokenizers, 1).items == 3
