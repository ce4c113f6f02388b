"""The judge against vLLM's own OpenAI server, which serves a small vision-language model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from tiny_vlm import greedy_text, write_vlm

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
ARGUMENTS = (
    "--served-model-name", "eyes", "--host", "127.0.0.1", "--api-key", KEY, "--enforce-eager",
    "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "8",
    "--kv-cache-memory-bytes", str(32 << 20),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base of a running server, which ends with the tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [*command, "--port", str(port), *ARGUMENTS], env=environment, stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            assert server.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            try:
                httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def config(url: str, **others: object) -> JudgeConfig:
    settings = {"model": "eyes", "api_key_env": "JUDGE_KEY", "max_tokens": 8} | others
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
