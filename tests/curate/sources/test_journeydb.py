"""JourneyDB's annotation lines with their own questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_sets import ids, png, reasons, rows_of, write_lines

from curate.sources import load_source


def asked(text: str, answer: str = "B", **options: Any) -> dict[str, Any]:
    return {"Question": text, "Options": options or {"A": "oil", "B": "ink", "C": "clay"}, "Answer": answer}


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "img_path": f"./000/{number}.png",
        "prompt": f"a castle {number} --v 4",
        "Task1": {"Style": ["ink"], "Content": ["castle"]},
        "Task2": {"Caption": f"a castle {number}"},
        "Task3": {
            "Style Relevant Questions and Answers": [asked("which medium?")],
            "Content Relevant Questions and Answers": [asked("what stands there?", "A", A="castle", B="hut")],
        },
        **changes,
    }


def test_captions_prompts_and_questions_are_taken(tmp_path: Path) -> None:
    found = rows_of(write_lines(tmp_path / "train_anno.jsonl", [row(3)]))[0].item
    assert found
    assert (found.id, found.caption, found.prompt) == ("000/3", "a castle 3", "a castle 3 --v 4")
    assert [(one.kind, one.answer) for one in found.questions] == [("style", "ink"), ("content", "castle")]
    assert found.questions[0].choices == ("oil", "ink", "clay")


def test_malformed_rows_are_quarantined_and_the_rest_goes_on(tmp_path: Path) -> None:
    rows = rows_of(
        write_lines(
            tmp_path / "anno.jsonl",
            [
                row(0),
                '{"img_path": "./000/torn.png", "Task2": {"Capt',
                row(1, Task2={}),
                row(2, Task2="a caption in the wrong place"),
                row(3, img_path=None),
                row(4, img_path="../../etc/passwd"),
                row(0),
                row(5, Task3=None),
            ],
        )
    )
    assert ids(rows) == ["000/0", "000/5"]
    found = reasons(rows)
    assert "caption" in found["anno.jsonl:3"]
    assert "caption" in found["anno.jsonl:4"]
    assert "image" in found["anno.jsonl:5"]
    assert "outside" in found["anno.jsonl:6"]
    assert "occurs twice" in found["anno.jsonl:7"]


def test_questions_that_cannot_be_scored_are_left_out_and_counted(tmp_path: Path) -> None:
    questions = [
        asked("no such letter?", "D"),
        asked("an empty option?", "A", A="castle", B=" "),
        asked("one option?", "A", A="castle", B=None),
        asked("twice the same?", "A", A="castle", B="Castle"),
        "no question",
        asked("in a sentence?", "A: castle", A="castle", B="hut"),
        asked("the option itself?", "hut", A="castle", B="hut"),
        asked("small letter?", "b", A="castle", B="hut"),
    ]
    task = {"Content Relevant Questions and Answers": questions, "Style Relevant Questions and Answers": None}
    (found,) = rows_of(write_lines(tmp_path / "anno.jsonl", [row(0, Task3=task)]))
    assert found.item
    assert [one.answer for one in found.item.questions] == ["castle", "hut", "hut"]
    assert len(found.dropped) == 5


def test_images_lie_beside_the_annotations_or_in_imgs(tmp_path: Path) -> None:
    write_lines(tmp_path / "anno.jsonl", [row(0), row(1)])
    for path in (tmp_path / "imgs/000/0.png", tmp_path / "000/1.png"):
        path.parent.mkdir(parents=True)
        path.write_bytes(png())
    source = load_source(str(tmp_path), "train", 0, 0, 48)
    assert [source.image(item).shape for item in source.items()] == [(48, 48, 3)] * 2
