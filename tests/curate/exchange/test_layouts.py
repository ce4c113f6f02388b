"""Every layout, opened as its tool opens it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from curate.exchange.export import FORMATS, ExportedPairs, export_pairs
from curate.exchange.tokenizers import Tokenizers, caption_question
from engine.errors import ConfigError, DataError
from engine.records import Preference

datasets = pytest.importorskip("datasets")


def export(to: Path, layout: str, preferences: list[Preference], tokenizers: Tokenizers) -> ExportedPairs:
    return export_pairs(preferences, to, layout, tokenizers, to.parent)


def opened(folder: Path, cache: Path) -> Any:
    """A folder as `datasets` reads it, and so as TRL's scripts do."""
    return datasets.load_dataset(str(folder), split="train", cache_dir=str(cache))


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return json.loads(path.read_text())


def is_drawn_from(image: Image.Image, codes: tuple[int, ...], tokenizers: Tokenizers) -> bool:
    return np.array_equal(np.asarray(image.convert("RGB")), tokenizers.decode([codes])[0])


def test_official_rows_have_exactly_its_keys_and_only_items_with_both_pairs(
    tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    numbered = [replace(preferences[0], id="238"), *preferences[1:4], replace(preferences[4], id="007")]
    found = export(tmp_path / "out", "official", numbered, tokenizers)
    written = rows(tmp_path / "out/pair_dpo_data.json")
    assert [list(row) for row in written] == [
        [
            "id", "img_path", "prompt", "caption", "caption_win", "caption_lose", "bert_score_win",
            "bert_score_lose", "image_win", "image_lose", "vqa_score_win", "vqa_score_lose",
        ]
    ] * 2  # fmt: skip
    assert [row["id"] for row in written] == [238, "007"]
    assert found.counts == {"items": 5, "caption pairs": 2, "image pairs": 2}
    assert found.left_out == {
        "caption pairs: the layout needs pairs of both sides": 1,
        "image pairs: the layout needs pairs of both sides": 1,
    }
    pair = preferences[0].images
    assert pair is not None
    assert written[0]["vqa_score_win"] == pair.win.score
    for name, codes in (("img_path", preferences[0].image_codes), ("image_lose", pair.lose.codes)):
        with Image.open(tmp_path / "out" / written[0][name]) as image:
            assert is_drawn_from(image, codes, tokenizers)


def test_trl_rows_open_with_their_images_as_message_lists(
    tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    found = export(tmp_path / "out", "trl", preferences, tokenizers)
    assert found.left_out == {"image pairs: the layout has no images as answers": 3}
    data = opened(tmp_path / "out", tmp_path / "cache")
    assert set(data.column_names) == {"images", "prompt", "chosen", "rejected"}
    assert len(data) == found.counts["caption pairs"] == 3
    row = data[1]
    assert [part["type"] for part in row["prompt"][0]["content"]] == ["image", "text"]
    assert row["chosen"] == [{"role": "assistant", "content": [{"type": "text", "text": "a red circle"}]}]
    assert row["rejected"][0]["content"][0]["text"] == "two blue squares"
    assert len(row["images"]) == 1
    assert is_drawn_from(row["images"][0], preferences[1].image_codes, tokenizers)


def test_ms_swift_rows_name_one_image_for_each_placeholder(
    tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    export(tmp_path / "out", "ms-swift", preferences, tokenizers)
    captions, images = (rows(tmp_path / "out" / name) for name in ("captions.jsonl", "images.jsonl"))
    assert all(set(row) == {"messages", "images", "rejected_response"} for row in captions)
    assert all(set(row) == {"messages", "images", "rejected_images"} for row in images)
    assert (len(captions), len(images)) == (3, 3)
    for row in captions + images:
        asked, answered = row["messages"]
        assert asked == {"role": "user", "content": f"<image>{tokenizers.question}"}
        assert answered["role"] == "assistant"
        for name in row["images"] + row.get("rejected_images", []):
            assert (tmp_path / "out" / name).is_file()
    assert [row["messages"][1]["content"] for row in images] == [preferences[i].caption for i in (0, 2, 4)]


def test_llama_factory_rows_fit_the_description_beside_them(
    tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    export(tmp_path / "out", "llama-factory", preferences, tokenizers)
    (entry,) = json.loads((tmp_path / "out/dataset_info.json").read_text()).values()
    assert (entry["formatting"], entry["ranking"]) == ("sharegpt", True)
    written = rows(tmp_path / "out" / entry["file_name"])
    assert len(written) == 3
    for row in written:
        assert set(row) == set(entry["columns"].values())
        assert row["conversations"] == [{"from": "human", "value": f"<image>{tokenizers.question}"}]
        assert row["chosen"] == {"from": "gpt", "value": "a red circle"}
        assert [(tmp_path / "out" / name).is_file() for name in row["images"]] == [True]


def test_align_anything_has_a_file_for_each_task(
    tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    export(tmp_path / "out", "align-anything", preferences, tokenizers)
    told, generated = (rows(tmp_path / "out" / f"{name}.json") for name in ("image_to_text", "text_to_image"))
    assert all(set(row) == {"question", "image", "better_response", "worse_response"} for row in told)
    assert all(set(row) == {"prompt", "better_image", "worse_image"} for row in generated)
    assert (len(told), len(generated)) == (3, 3)
    assert generated[1]["prompt"] == preferences[2].caption
    assert (tmp_path / "out" / generated[1]["worse_image"]).is_file()


def test_the_table_opens_with_images_of_both_sides(
    tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    export(tmp_path / "out", "parquet", preferences, tokenizers)
    for data in (
        opened(tmp_path / "out", tmp_path / "cache"),
        datasets.Dataset.from_parquet(str(tmp_path / "out/train.parquet"), cache_dir=str(tmp_path / "two")),
    ):
        assert all(isinstance(data.features[name], datasets.Image) for name in ("image", "image_win"))
        assert data["id"][:] == [one.id for one in preferences]
        assert data["caption_win"][:] == ["a red circle", "a red circle", None, None, "a red circle"]
        assert data[3]["image_win"] is None
        pair = preferences[2].images
        assert pair is not None
        assert is_drawn_from(data[2]["image_lose"], pair.lose.codes, tokenizers)
        assert is_drawn_from(data[3]["image"], preferences[3].image_codes, tokenizers)


def test_the_table_is_written_in_row_groups(
    tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    import pyarrow.parquet as pq

    many = [replace(preferences[i % 5], id=str(i)) for i in range(150)]
    export(tmp_path / "out", "parquet", many, tokenizers)
    metadata = pq.read_metadata(tmp_path / "out/train.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [64, 64, 22]


@pytest.mark.parametrize("item", ["../../escape", "/etc/passwd", "a\0b", "x" * 400, "日本 <id>", ""])
def test_files_are_named_safely_whatever_the_id(
    tmp_path: Path, item: str, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    export(tmp_path / "to/out", "align-anything", [replace(preferences[0], id=item)], tokenizers)
    pictures = [path.relative_to(tmp_path / "to/out") for path in tmp_path.rglob("*.png")]
    assert len(pictures) == 3
    assert all(re.fullmatch(r"images/0000/0000000-[0-9a-f]{12}-\w+\.png", str(path)) for path in pictures)


@pytest.mark.parametrize(
    ("layout", "token"),
    [
        *(("llama-factory", one) for one in ("<image>", "<video>", "<audio>")),
        *(("ms-swift", one) for one in ("<image>", "<video>", "<audio>", "<bbox>", "<ref-object>")),
    ],
)
def test_a_text_that_holds_a_placeholder_is_left_out_and_counted(
    tmp_path: Path, layout: str, token: str, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    pair = preferences[1].captions
    assert pair is not None
    odd = replace(preferences[1], captions=replace(pair, lose=replace(pair.lose, text=f"an {token} of")))
    named = replace(preferences[2], caption=f"a {token}")
    found = export(tmp_path / "out", layout, [odd, preferences[0], named], tokenizers)
    reason = f"a text holds {token}, which stands for other data there"
    assert found.counts["caption pairs"] == 1
    assert found.left_out[f"caption pairs: {reason}"] == 1
    assert found.left_out.get(f"image pairs: {reason}", 0) == (layout == "ms-swift")


def test_an_id_of_more_digits_than_a_number_has_stays_text(
    tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    export(tmp_path / "out", "official", [replace(preferences[0], id="9" * 5000)], tokenizers)
    assert [row["id"] for row in rows(tmp_path / "out/pair_dpo_data.json")] == ["9" * 5000]


@pytest.mark.parametrize("layout", FORMATS)
def test_the_card_says_what_is_there_and_names_no_folder_of_this_machine(
    tmp_path: Path, layout: str, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    found = export(tmp_path / "out", layout, preferences, tokenizers)
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\ntags:\n")
    assert f"| caption pairs | {found.counts['caption pairs']} |" in card
    assert all(f"{count} {reason}." in card for reason, count in found.left_out.items())
    for path in (tmp_path / "out").iterdir():
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("USER: \nGive a caption for this image. ASSISTANT:", "Give a caption for this image."),
        ("USER: Describe it. ASSISTANT:", "Describe it."),
        ("caption:", "caption:"),
        ("What does the USER: see?", "What does the USER: see?"),
        ("USER: ASSISTANT:", "Give a caption for this image."),
        ("", "Give a caption for this image."),
    ],
)
def test_a_question_is_the_prompt_without_chat_markers(prompt: str, question: str) -> None:
    assert caption_question(prompt) == question


def test_an_unknown_layout_and_a_full_folder_are_refused_before_anything_is_read(
    tmp_path: Path, tokenizers: Tokenizers
) -> None:
    def nothing_is_read() -> Any:
        raise AssertionError
        yield

    with pytest.raises(ConfigError, match=r"--format csv: not known; known are official, trl"):
        export_pairs(nothing_is_read(), tmp_path / "out", "csv", tokenizers, tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept.txt").write_text("mine")
    with pytest.raises(DataError, match="is there already and is left alone"):
        export_pairs(nothing_is_read(), tmp_path / "full", "trl", tokenizers, tmp_path)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["kept.txt"]
