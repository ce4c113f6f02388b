"""`hermes questions` as a user types it, with a small model that has learned a data set by heart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from generator_text import generator_text
from PIL import Image
from tiny_llama import taught
from vllm_server import NAME, vllm_server

from curate.questions.prompting import reading_request, writing_request, written
from curate.scoring.endpoint import Request
from engine.records import Question

THINGS = {"red": "cube", "blue": "ball", "green": "cone", "black": "ring", "white": "star", "pink": "cup"}
KNOWN = [color for color in THINGS if color != "white"]
"""Every fifth item is held out."""
OWN = Question(question="is it a photo?", choices=("yes", "no"), answer="yes", kind="other")
WRONG = Question(
    question="is there a chair?", choices=("yes", "no"), answer="yes", kind="object", element="chair"
)


def caption(color: str) -> str:
    return f"a {color} {THINGS[color]} on a table"


def about(color: str) -> Question:
    return Question(
        question=f"what color is the {THINGS[color]}?",
        choices=(color, "purple"),
        answer=color,
        kind="color",
        element=color,
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hermes_cli.main", *arguments]


def hermes(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serves a model that writes the question of a colour and a wrong one, in both styles, and answers."""
    plain, chat = [], []
    for color in KNOWN:
        said = generator_text([about(color), WRONG]).removeprefix("Entities:")
        plain.append((writing_request("tifa", caption(color))["prompt"], said))
        for question, answer in ((about(color), color), (WRONG, "no"), (OWN, "yes")):
            chat.append((content(reading_request(caption(color), question)), f" {answer}"))
    rows = ((one.element, one.kind, one.question, one.choices, one.answer) for one in (about("red"), WRONG))
    chat.append((content(writing_request("instruct", caption("red"))), written(rows)))
    folder = taught(tmp_path_factory.mktemp("models") / "llama", plain, chat)
    with vllm_server(folder, folder / "log", "--max-model-len", "1024") as base:
        yield base


def content(request: Request) -> str:
    return str(request["messages"][0]["content"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of what the model knows; its fifth item is held out, and asked about all the same."""
    return data_set(tmp_path_factory.mktemp("data"), KNOWN)


def data_set(folder: Path, colors: list[str]) -> Path:
    Image.new("RGB", (48, 48), (200, 30, 30)).save(folder / f"{colors[0]}.png")
    rows = [
        {
            "id": f"item-{color}",
            "image": f"{color}.png",
            "caption": caption(color),
            "questions": [
                {"question": OWN.question, "choices": OWN.choices, "answer": OWN.answer, "kind": OWN.kind}
            ],
        }
        for color in colors
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def arguments(url: str, data: Path) -> list[str]:
    return [
        "questions", "--data", str(data), "--to", "out/questions.json",
        "--url", url, "--question-model", NAME, "--style", "tifa",
        "--combine", "--batch", "1", "--max-tokens", "200", "--set", "writer.timeout=120",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(url: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file of an uninterrupted run, and what it printed."""
    cwd = tmp_path_factory.mktemp("whole")
    done = hermes(cwd, *arguments(url, data))
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / "out/questions.json", done.stdout


def test_both_sources_are_checked_counted_and_written_the_data_sets_first(whole: tuple[Path, str]) -> None:
    path, printed = whole
    rows = json.loads(path.read_text())
    assert [(row["id"], row["question"]) for row in rows] == [
        (f"item-{color}", question) for color in KNOWN for question in (OWN.question, about(color).question)
    ]
    first = dict(rows[1])
    assert first == {
        "id": "item-red",
        "caption": caption("red"),
        "question": "what color is the cube?",
        "choices": ["red", "purple"],
        "answer": "red",
        "answer_type": "color",
        "element_type": "color",
        "element": "red",
    }
    assert "5 captions asked about, 0 found in the cache" in printed
    assert "15 questions read" in printed
    assert "5 rejected: the reader answers otherwise" in printed
    assert "10 questions about 5 of 5 items" in printed


def cached(file: Path) -> dict[str, str]:
    """What a cache holds, also while a command writes to it."""
    if not file.is_file():
        return {}
    with contextlib.closing(sqlite3.connect(file)) as cache:
        try:
            return dict(cache.execute("SELECT key, text FROM said"))
        except sqlite3.OperationalError:  # Its table is not there yet.
            return {}


def test_a_killed_run_goes_on_and_gives_the_same_file(
    whole: tuple[Path, str], url: str, data: Path, tmp_path: Path
) -> None:
    said = tmp_path / "out/questions.json.cache.sqlite"
    victim = subprocess.Popen(
        command(*arguments(url, data)), cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while len(cached(said)) < 2 and time.monotonic() < deadline:
        assert victim.poll() is None
        time.sleep(0.01)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "out/questions.json").exists()
    survived = cached(said)
    done = hermes(tmp_path, *arguments(url, data))
    assert done.returncode == 0, done.stderr
    assert "0 found in the cache" not in done.stdout.split("captions asked about")[1].split("\n")[0]
    assert survived.items() < cached(said).items()
    assert (tmp_path / "out/questions.json").read_bytes() == whole[0].read_bytes()


def test_a_model_that_follows_instructions_writes_json_by_the_schema(url: str, tmp_path: Path) -> None:
    data = data_set(tmp_path, ["red"])
    done = hermes(
        tmp_path, "questions", "--data", str(data), "--to", "q.json", "--url", url, "--question-model", NAME,
        "--max-tokens", "300",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "q.json").read_text())
    assert [(row["id"], row["question"], row["answer"]) for row in rows] == [
        ("item-red", about("red").question, "red")
    ]
    assert "1 rejected: the reader answers otherwise" in done.stdout


def test_a_reader_alone_checks_the_data_sets_own_questions(url: str, tmp_path: Path) -> None:
    data = data_set(tmp_path, KNOWN[:2])
    command = ("questions", "--data", str(data), "--to", "q.json", "--url", url)
    done = hermes(tmp_path, *command, "--reader-model", NAME)
    assert done.returncode == 0, done.stderr
    assert [row["question"] for row in json.loads((tmp_path / "q.json").read_text())] == [OWN.question] * 2
    assert "captions asked about" not in done.stdout
    again = hermes(tmp_path, *command, "--set", f"reader.model={NAME}")
    assert "0 questions read, 2 found in the cache" in again.stdout


def test_an_endpoint_that_refuses_is_one_line(url: str, data: Path, tmp_path: Path) -> None:
    done = hermes(tmp_path, *arguments(url, data), "--question-model", "nobody")
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "the model nobody at http://127.0.0.1:" in done.stderr
    assert "status 404" in done.stderr


def test_without_a_model_the_data_sets_own_questions_are_written(tmp_path: Path) -> None:
    done = hermes(tmp_path, "questions", "--data", "shapes", "--limit", "8", "--to", "own.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "own.json").read_text())
    assert len({row["id"] for row in rows}) == 8
    assert f"{len(rows)} questions about 8 of 8 items" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["own.json"]


def test_where_no_question_can_be_asked_nothing_is_written_and_the_reasons_are_told(tmp_path: Path) -> None:
    data = data_set(tmp_path, ["red", "blue"])
    rows = [json.loads(line) for line in (data / "items.jsonl").read_text().splitlines()]
    rows[0]["questions"], rows[1]["questions"] = "is it red?", [{"question": "is it?", "answer": "yes"}]
    bad = {"image": "a.png"}
    (data / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, bad]))
    done = hermes(tmp_path, "questions", "--data", str(data), "--to", "q.json")
    assert done.returncode == 1
    assert "no question about any of 2 items can be asked" in done.stderr
    assert "1 row quarantined, the first: items.jsonl:3: caption" in done.stdout
    assert "1 question left out: questions are text that is no JSON" in done.stdout
    assert "1 question left out: a question has no list of choices" in done.stdout
    assert not (tmp_path / "q.json").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ("questions", "--to", "q.json", "--limit", "2", "--combine"),
            "name a --question-model and its --url",
        ),
        (("questions", "--to", "q.json", "--limit", "2", "--question-model", "m"), "serves it with --url"),
        (("questions", "--to", "q.json", "--limit", "2", "--url", "http://h/v1"), "name the model to ask"),
        (("questions", "--to", "q.json", "--limit", "2", "--set", "writer.modle=m"), "modle"),
        (("questions", "--to", "q.json", "--limit", "2", "--set", "reader=m"), "--set: "),
        (("questions", "--to", "q.json"), "say how many items with --limit"),
        (("questions", "--to", ".", "--limit", "2"), "name a file"),
        (("curate", "--questions", "nowhere.json"), "nowhere.json: cannot be read"),
        (("curate", "--set", "curate.combine_questions=true"), "set curate.questions"),
    ],
)
def test_a_mistake_is_one_line_before_any_model_starts(
    tmp_path: Path, given: tuple[str, ...], words: str
) -> None:
    done = hermes(tmp_path, *given)
    assert done.returncode == 1
    assert done.stderr.startswith("hermes: ")
    assert done.stderr.strip().count("\n") == 0
    assert words in done.stderr
    assert "starting" not in done.stdout
    assert not (tmp_path / "q.json").exists()
