"""The official initial_data.json, and the questions beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_sets import folder_with_image, ids, reasons, rows_of

from curate.sources import load_source, open_source
from engine.records import Item

INITIAL = [
    {"id": i, "img_path": "./a.png", "prompt": f"prompt {i}", "caption": f"caption {i}"} for i in range(6)
]


def question(item: int, text: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": item,
        "caption": f"caption {item}",
        "element": "cube",
        "question": text,
        "choices": ["yes", "no"],
        "answer": "yes",
        "img_path": "./a.png",
        "prompt": f"prompt {item}",
        "f1": float("nan"),
        **changes,
    }


def make(folder: Path, questions: list[Any] | None = None, initial: object = INITIAL) -> Path:
    folder_with_image(folder)
    (folder / "initial_data.json").write_text(json.dumps(initial))
    if questions is not None:
        (folder / "vqa_data.json").write_text(json.dumps(questions))
    return folder


def items(folder: Path) -> dict[str, Item]:
    return {row.item.id: row.item for row in rows_of(folder) if row.item}


def test_captions_condition_and_prompts_are_kept_apart(tmp_path: Path) -> None:
    source = load_source(str(make(tmp_path)), "train", 0, 0, 48)
    first = source.items()[0]
    assert (first.id, first.caption, first.prompt) == ("0", "caption 0", "prompt 0")
    assert source.image(first).shape == (48, 48, 3)
    assert next(source.rows()).where == "initial_data.json:object 1"


def test_a_file_as_the_official_scripts_append_to_it_is_read(tmp_path: Path) -> None:
    folder = make(tmp_path)
    text = "".join(json.dumps(one, indent=4) + ",\n" for one in INITIAL) + '{\n    "id": 6,\n    "img_pa'
    (folder / "initial_data.json").write_text(text)
    rows = rows_of(folder)
    assert ids(rows) == [str(i) for i in range(6)]
    assert "torn" in reasons(rows)["initial_data.json:object 7"]


def test_questions_are_joined_by_id_whatever_their_order(tmp_path: Path) -> None:
    asked = [question(i, f"{i}.{n}?") for n in range(2) for i in (3, 0, 5)]
    found = items(make(tmp_path, asked))
    assert [one.question for one in found["3"].questions] == ["3.0?", "3.1?"]
    assert [one.question for one in found["0"].questions] == ["0.0?", "0.1?"]
    assert not found["1"].questions


def test_questions_without_an_id_are_joined_by_caption(tmp_path: Path) -> None:
    asked = question(0, "by caption?", caption=" caption  4\n")
    del asked["id"]
    assert [one.question for one in items(make(tmp_path, [asked]))["4"].questions] == ["by caption?"]


def test_questions_of_another_caption_are_not_joined_by_id(tmp_path: Path) -> None:
    found = items(make(tmp_path, [question(2, "strange?", caption="caption 3")]))
    assert not found["2"].questions
    assert [one.question for one in found["3"].questions] == ["strange?"]


def test_damaged_questions_are_listed_behind_the_items(tmp_path: Path) -> None:
    folder = make(tmp_path, [question(0, "good?"), 7, {"question": "whose?"}])
    rows = rows_of(folder)
    assert ids(rows) == [str(i) for i in range(6)]
    assert [row.position for row in rows] == list(range(8))
    assert reasons(rows) == {
        "vqa_data.json:object 2": "not a JSON object",
        "vqa_data.json:object 3": "the question names neither an id nor a caption",
    }


def test_the_digest_tells_the_annotations_apart(tmp_path: Path) -> None:
    def digest(name: str, questions: list[Any]) -> str:
        return open_source(str(make(tmp_path / name, questions)), "", 0, 48).digest

    assert digest("a", [question(0, "one?")]) == digest("b", [question(0, "one?")])
    assert digest("a", [question(0, "one?")]) != digest("b", [question(0, "two?")])


@pytest.mark.parametrize("path", ["../a.png", "/etc/passwd", ""])
def test_objects_whose_image_leaves_the_folder_are_quarantined(tmp_path: Path, path: str) -> None:
    rows = rows_of(make(tmp_path, None, [{**INITIAL[0], "img_path": path}, INITIAL[1]]))
    assert ids(rows) == ["1"]
    assert len(reasons(rows)) == 1
