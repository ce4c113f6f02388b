"""A curation asks the questions of a file, and its folder belongs to that file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from curating import curate_here
from data_sets import folder_with_image, write_lines

from curate.config import CurateConfig
from curate.questions.tifa import from_item, write_tifa
from curate.scoring.scorers import Scorers
from curate.store.files import ORIGIN
from curate.store.outcomes import Sampled
from curate.store.shards import read_outcomes
from engine.errors import DataError, StaleError
from engine.files.seals import SEAL
from engine.metering.counters import EngineWork
from engine.records import (
    Answer,
    CaptionSettings,
    ImageTokens,
    Item,
    Question,
    SampledCaption,
    SampledImage,
)
from hermes_cli.settings import RunSettings
from hermes_cli.stages.curate import training_source
from hermes_cli.stages.evaluate import held_out_source, unknown_gap

RED = Question(question="is it red?", choices=("yes", "no"), answer="yes", kind="color", element="red")


class Parrot:
    """A unified model that says the same always, and gives the same image."""

    fingerprint = "parrot"
    precision = "float32"
    work = EngineWork()

    def encode(self, images: np.ndarray) -> list[ImageTokens]:
        return [ImageTokens(codes=(1, 2))] * len(images)

    def decode(self, codes: Sequence[Sequence[int]]) -> np.ndarray:
        return np.zeros((len(codes), 4, 4, 3), np.uint8)

    def caption(
        self, images: Sequence[ImageTokens], keys: Sequence[str], seed: int, plan: Sequence[CaptionSettings]
    ) -> list[list[SampledCaption]]:
        said = SampledCaption(text="red", token_ids=(1,), logprobs=(0.0, 0.0), seed=0)
        return [[said] * len(plan) for _ in images]

    def answer(
        self, images: Sequence[ImageTokens], questions: Sequence[Sequence[Question]], settings: object
    ) -> list[list[Answer]]:
        return [[Answer(text=one.answer) for one in row] for row in questions]

    def generate_images(
        self, prompts: Sequence[str], n: int, keys: Sequence[str], seed: int, settings: object
    ) -> list[list[SampledImage]]:
        return [[SampledImage(codes=(1, 2), seed=0)] * n for _ in prompts]


class Same:
    """Every text is like every other."""

    name = "same"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.ones((len(texts), 1), np.float32)


def settings(file: Path | str, combine: bool = False) -> RunSettings:
    return RunSettings(curate=CurateConfig(n=2, limit=3, questions=str(file), combine_questions=combine))


def curated(chosen: RunSettings, folder: Path) -> list[tuple[Question, ...]]:
    source = training_source(chosen)
    curate_here(Parrot(), Scorers(Same(), Same()), source, chosen.curate, folder)
    return [one.item.questions for one in read_outcomes(folder) if isinstance(one, Sampled)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A question about the first two of the three items, under their ids."""
    path = tmp_path / "questions.json"
    items = training_source(settings("")).items()[:2]
    write_tifa(path, (row for item in items for row in from_item(item, [RED])))
    return path


def test_the_files_questions_are_asked_in_place_of_the_data_sets_or_after_them(
    file: Path, tmp_path: Path
) -> None:
    own = curated(settings(""), tmp_path / "own")
    assert all(own)
    assert curated(settings(file), tmp_path / "file") == [(RED,), (RED,), ()]
    both = [(*own[0], RED), (*own[1], RED), own[2]]
    assert curated(settings(file, combine=True), tmp_path / "both") == both


def test_a_folder_curated_with_other_questions_is_refused_and_the_difference_named(
    file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    before = curated(settings(file), folder)
    assert curated(settings(file), folder) == before
    digest = json.loads((folder / ORIGIN).read_bytes())["questions"]
    with pytest.raises(StaleError, match=f"questions '{digest}' -> ''"):
        curated(settings(""), folder)
    with pytest.raises(StaleError, match=f"questions '{digest}' -> '{digest} and the data set's own'|own\""):
        curated(settings(file, combine=True), folder)
    rows = json.loads(file.read_text())
    rows[0]["answer"] = "no"
    file.write_text(json.dumps(rows))
    with pytest.raises(StaleError, match=f"questions '{digest}' -> '[0-9a-f]{{16}}'"):
        curated(settings(file), folder)


def test_a_folder_from_before_questions_had_a_file_is_completed(tmp_path: Path) -> None:
    before = curated(settings(""), tmp_path)
    origin = json.loads((tmp_path / ORIGIN).read_bytes())
    del origin["questions"]
    (tmp_path / ORIGIN).write_text(json.dumps(origin))
    (tmp_path / SEAL).unlink()
    assert curated(settings(""), tmp_path) == before


def test_the_gap_is_measured_with_the_data_sets_questions_and_else_with_the_files(
    file: Path, tmp_path: Path
) -> None:
    own = held_out_source(settings("")).items()
    assert held_out_source(settings(file)).items() == own, "shapes bring their own"
    names = [f"{i}.png" for i in range(10)]
    folder = folder_with_image(tmp_path / "data", *names)
    rows = [{"id": str(i), "image": name, "caption": f"caption {i}"} for i, name in enumerate(names)]
    write_lines(folder / "items.jsonl", rows)
    alone = msgspec.structs.replace(settings(""), data=str(folder))
    said = unknown_gap(held_out_source(alone))
    assert said.startswith("the gap is unknown: no held-out item of")
    assert "hermes questions" in said
    questions = tmp_path / "captions.json"
    items = [Item(id="", caption=f"caption {i}", questions=()) for i in (3, 4)]
    write_tifa(questions, (row for item in items for row in from_item(item, [RED])))
    asked = msgspec.structs.replace(alone, curate=settings(questions).curate)
    source = held_out_source(asked)
    assert [(one.id, one.questions) for one in source.items()] == [("4", (RED,)), ("9", ())]
    assert source.counts.with_questions == 1
    assert not unknown_gap(source)


def test_a_file_about_other_items_is_refused(tmp_path: Path) -> None:
    row = {
        "id": "x",
        "caption": "nothing here",
        "question": "is it?",
        "choices": ["yes", "no"],
        "answer": "no",
    }
    path = tmp_path / "strangers.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(DataError, match="no question about any of the 3 items of shapes"):
        training_source(settings(path))
