"""The judge against vLLM's own OpenAI server, which serves a small vision-language model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_vlm import greedy_text, write_vlm
from vllm_server import NAME, vllm_server

from curate.config import JudgeConfig
from curate.scoring.judge import Judge, data_url, request
from curate.scoring.self_vqa import matched
from curate.scoring.similarity import load_similarity
from engine.errors import EngineError
from engine.records import Question

pytestmark = pytest.mark.slow

QUESTIONS = [
    Question(question="what color?", choices=("red", "green", "blue"), answer="red", kind="color"),
    Question(question="is it a cat?", choices=("yes", "no"), answer="no", kind="existence"),
]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
KEY = "sk-of-the-test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "log"
    with vllm_server(folder, log, "--api-key", KEY, "--max-model-len", "512") as base:
        yield base


def config(url: str, **others: object) -> JudgeConfig:
    settings = {"model": NAME, "api_key_env": "JUDGE_KEY", "max_tokens": 8} | others
    return JudgeConfig(url=url, **settings)  # type: ignore[arg-type]


def test_the_served_model_answers_from_the_very_pixels(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    found = Judge(config(url)).answer(IMAGES, [QUESTIONS] * len(IMAGES))
    assert found == Judge(config(url, concurrency=1)).answer(IMAGES, [QUESTIONS] * len(IMAGES))
    for image, row in zip(IMAGES, found, strict=True):
        for question, answer in zip(QUESTIONS, row, strict=True):
            asked = request(config(url), data_url(image), question)["messages"][0]["content"][1]["text"]  # type: ignore[index]
            assert answer.text == greedy_text(folder, image, asked, 8)
    assert len({tuple(one.text for one in row) for row in found}) == len(IMAGES)
    choices = matched(QUESTIONS, found[0], load_similarity("minilm"))
    assert all(one in question.choices for one, question in zip(choices, QUESTIONS, strict=True))


def test_its_refusals_are_clear_errors(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with pytest.raises(EngineError, match=r"status 404.*nobody.*does not exist"):
        Judge(config(url, model="nobody")).answer(IMAGES[:1], [QUESTIONS])
    long = Question(question="what? " * 200, choices=("yes", "no"), answer="no", kind="existence")
    with pytest.raises(EngineError, match=r"status 400.*512"):
        Judge(config(url)).answer(IMAGES[:1], [[long]])
    monkeypatch.setenv("JUDGE_KEY", "sk-of-somebody-else")
    with pytest.raises(EngineError, match="status 401") as error:
        Judge(config(url)).answer(IMAGES[:1], [QUESTIONS])
    assert "somebody" not in str(error.value)
