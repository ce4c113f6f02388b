"""An external judge: the requests it gets, and what a failing endpoint leads to."""

from __future__ import annotations

import base64
import io
import json
import logging
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from chat_endpoint import COLOURS, Reply, serving
from curating import curate_here
from PIL import Image

from curate.config import CurateConfig, JudgeConfig
from curate.scoring.judge import Judge, data_url, request
from curate.scoring.scorers import Scorers, require_scorers
from curate.sources import DataRow, Source
from curate.store.files import ORIGIN, SUMMARY
from curate.store.outcomes import Sampled
from curate.store.shards import read_outcomes
from engine.errors import ConfigError, EngineError
from engine.metering.counters import EngineWork
from engine.records import (
    Answer,
    AnswerSettings,
    CaptionSettings,
    ImageSettings,
    ImageTokens,
    Item,
    Question,
    SampledCaption,
    SampledImage,
)

COLOUR = Question(question="what color?", choices=COLOURS, answer="green", kind="color")
OTHER = Question(question="which one?", choices=("blue", "green"), answer="blue", kind="color")
KEY = "sk-very.secret/key"


def generated(colour: int, size: int = 24) -> np.ndarray:
    image = np.full((size, size, 3), 20, np.uint8)
    image[..., colour] = 200
    return image


IMAGES = np.stack([generated(colour) for colour in (1, 0, 2)])
ASKED = [[COLOUR, OTHER], [COLOUR], []]


def judge(url: str, **others: object) -> Judge:
    return Judge(JudgeConfig(url=url, model="eyes", **others))  # type: ignore[arg-type]


def test_every_question_of_every_image_is_answered_from_its_own_pixels() -> None:
    with serving() as endpoint:
        found = judge(f"{endpoint.url}/").answer(IMAGES, ASKED)
    assert [[one.text.strip() for one in row] for row in found] == [["Green.", "Green."], ["Red."], []]
    assert {one["path"] for one in endpoint.requests} == {"/v1/chat/completions"}
    bodies = [one["body"] for one in endpoint.requests]
    assert {one["model"] for one in bodies} == {"eyes"}
    assert {(one["temperature"], one["seed"], one["max_tokens"]) for one in bodies} == {(0, 0, 16)}
    texts = [one["messages"][0]["content"][1]["text"] for one in bodies]
    assert sum("what color?" in text and "red, green, blue" in text for text in texts) == 2
    assert sum("which one?" in text and "blue, green" in text for text in texts) == 1
    assert endpoint.requests[0]["key"] is None


def test_a_request_holds_the_image_without_loss() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    body = request(JudgeConfig(url="http://localhost", model="eyes"), data_url(image), COLOUR)
    url = json.loads(json.dumps(body))["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as sent:
        assert np.array_equal(np.asarray(sent), image)


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    images = np.stack([generated(i % 3) for i in range(12)])
    with serving(seconds=0.05) as endpoint:
        judge(endpoint.url, concurrency=3).answer(images, [[COLOUR]] * 12)
    assert endpoint.most_in_flight == 3


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_status_that_time_mends_is_tried_again(status: int) -> None:
    with serving(Reply(status)) as endpoint:
        found = judge(endpoint.url).answer(IMAGES[:1], [[COLOUR]])
    assert found[0][0].text.strip() == "Green."
    assert len(endpoint.requests) == 2


def test_each_wait_is_longer_than_the_one_before() -> None:
    with serving(Reply(500), Reply(500, retry_after="soon")) as endpoint:
        judge(endpoint.url).answer(IMAGES[:1], [[COLOUR]])
    first, second, third = (one["time"] for one in endpoint.requests)
    assert second - first > 0.37
    assert third - second > 0.74


def test_retry_after_is_waited_for() -> None:
    with serving(Reply(429, retry_after="1")) as endpoint:
        began = time.monotonic()
        judge(endpoint.url, retries=1).answer(IMAGES[:1], [[COLOUR]])
    assert time.monotonic() - began > 0.95


def test_an_endpoint_that_stays_away_is_one_clear_error() -> None:
    with serving(*[Reply(503, "warming up\nstill")] * 9) as endpoint:
        with pytest.raises(EngineError, match=r"status 503: 'warming up still', up to 2 times") as error:
            judge(endpoint.url, retries=1).answer(IMAGES[:1], [[COLOUR]])
        assert len(endpoint.requests) == 2
    assert endpoint.url in str(error.value)
    assert "\n" not in str(error.value)


def test_a_request_that_takes_too_long_is_tried_again_and_then_an_error() -> None:
    with serving(Reply(200, seconds=0.6)) as endpoint:
        found = judge(endpoint.url, timeout=0.2, retries=2).answer(IMAGES[:1], [[COLOUR]])
        assert found[0][0].text.strip() == "Green."
    with (
        serving(*[Reply(200, seconds=0.5)] * 2) as endpoint,
        pytest.raises(EngineError, match=r"no answer \(ReadTimeout"),
    ):
        judge(endpoint.url, timeout=0.2, retries=0).answer(IMAGES[:1], [[COLOUR]])


def test_nobody_there_is_an_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EngineError, match=r"no answer \(ConnectError"):
        judge(f"http://127.0.0.1:{port}/v1", retries=0).answer(IMAGES[:1], [[COLOUR]])


def test_a_refusal_stops_at_once_and_leaves_the_rest_unasked() -> None:
    with (
        serving(Reply(404, '{"error": "no model eyes"}'), seconds=0.05) as endpoint,
        pytest.raises(
            EngineError, match=r"status 404.*no model eyes.*check curate.judge's url, model and key"
        ),
    ):
        judge(endpoint.url, concurrency=1).answer(np.stack([generated(0)] * 40), [[COLOUR]] * 40)
    assert len(endpoint.requests) <= 3


def test_a_redirect_is_not_followed() -> None:
    with serving(Reply(307)) as endpoint, pytest.raises(EngineError, match="status 307"):
        judge(endpoint.url).answer(IMAGES[:1], [[COLOUR]])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("not json", "no completion, but 'not json'"),
        ('{"choices": []}', "no completion"),
        ("[1]", "no completion"),
        (
            '{"choices": [{"finish_reason": "length", "message": {"content": null}}]}',
            "no text .finish_reason length.; raise max_tokens",
        ),
    ],
)
def test_what_is_no_chat_completion_is_an_error(body: str, words: str) -> None:
    with serving(Reply(200, body)) as endpoint, pytest.raises(EngineError, match=words):
        judge(endpoint.url).answer(IMAGES[:1], [[COLOUR]])


def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")
    caplog.set_level(logging.DEBUG)
    echo = "x" * 180 + f" the key {KEY} is wrong"
    with serving(Reply(401, echo)) as endpoint:
        told = judge(endpoint.url, api_key_env="JUDGE_KEY")
        with pytest.raises(EngineError, match="status 401") as error:
            told.answer(IMAGES[:1], [[COLOUR]])
    assert endpoint.requests[0]["key"] == f"Bearer {KEY}"
    traced = "".join(traceback.format_exception(error.value))
    shown = f"{error.value!r} {traced} {caplog.text} {told.origin} {told!r}"
    assert KEY[:8] not in shown


def test_what_the_environment_says_about_openai_goes_to_no_other_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", KEY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {KEY}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with serving() as endpoint:
        judge(endpoint.url).answer(IMAGES[:1], [[COLOUR]])
    assert KEY not in str(endpoint.requests[0]["headers"])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"url": "file:///etc/passwd", "model": "m"}, "starts with http:// or https://"),
        ({"url": "ftp://host/v1", "model": "m"}, "starts with http:// or https://"),
        ({"url": "https:///v1", "model": "m"}, "names a host"),
        ({"url": "http://host:port/v1", "model": "m"}, "cannot be read"),
        ({"url": "https://user:hunter2@host/v1", "model": "m"}, "holds a user, password"),
        ({"url": "https://host/v1?key=hunter2", "model": "m"}, "query"),
        ({"url": "http://host/v1"}, "without curate.judge.model"),
        ({"url": "http://host/v1", "model": "m", "api_key_env": "sk-hunter2"}, "the name, not the key"),
        ({"url": "http://host/v1", "model": "m", "timeout": 0.0}, "timeout is 0"),
        ({"url": "http://host/v1", "model": "m", "retries": -1}, "retries is -1"),
        ({"url": "http://host/v1", "model": "m", "concurrency": 0}, "concurrency is 0"),
        ({"url": "http://host/v1", "model": "m", "max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_without_repeating_secrets(
    wrong: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        JudgeConfig(**wrong)  # type: ignore[arg-type]
    assert "hunter2" not in str(error.value)


def test_a_key_that_is_not_set_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    config = JudgeConfig(url="http://localhost/v1", model="m", api_key_env="NO_SUCH_KEY")
    with pytest.raises(ConfigError, match="names NO_SUCH_KEY, which is not set"):
        require_scorers(CurateConfig(similarity="minilm", judge=config))


class OneColourModel:
    """Generates an image of one colour for each candidate, and refuses to answer about any."""

    fingerprint = "one colour"
    precision = "float32"
    work = EngineWork()

    def encode(self, images: np.ndarray) -> list[ImageTokens]:
        return [ImageTokens(codes=(9,)) for _ in images]

    def decode(self, codes: Sequence[Sequence[int]]) -> np.ndarray:
        return np.stack([generated(code % 3) for (code,) in codes])

    def caption(
        self, images: Sequence[ImageTokens], keys: Sequence[str], seed: int, plan: Sequence[CaptionSettings]
    ) -> list[list[SampledCaption]]:
        one = [
            SampledCaption(text="a" * (i + 1), token_ids=(i,), logprobs=(), seed=i)
            for i, _ in enumerate(plan)
        ]
        return [one for _ in images]

    def answer(
        self, images: Sequence[ImageTokens], questions: Sequence[Sequence[Question]], settings: AnswerSettings
    ) -> list[list[Answer]]:
        raise AssertionError("the judge answers")

    def generate_images(
        self, prompts: Sequence[str], n: int, keys: Sequence[str], seed: int, settings: ImageSettings
    ) -> list[list[SampledImage]]:
        return [[SampledImage(codes=(i,), seed=i) for i in range(n)] for _ in prompts]


class Letters:
    """Texts as their counts of letters."""

    name = "letters"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[text.count(letter) + 0.01 for letter in "abcdegnru"] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


class Three:
    """A few items whose images are all alike."""

    name, oracle, is_split = "three", False, True

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def digest(self) -> str:
        return ""

    def rows(self) -> Iterator[DataRow]:
        for number, item in enumerate(self._items):
            yield DataRow(position=number, where=f"row {number}", item=item)

    def image(self, item: Item) -> Image.Image:
        return Image.fromarray(generated(0))


def test_a_judge_scores_a_curation_instead_of_the_model_and_is_recorded(tmp_path: Path) -> None:
    items = tuple(
        Item(id=f"{i}", caption="a green one", questions=(COLOUR,), category="colors") for i in range(3)
    )
    source = Source(reader=Three(items), image_size=48)
    with serving() as endpoint:
        config = CurateConfig(n=3, chunk=2, judge=JudgeConfig(url=endpoint.url, model="eyes"))
        scorers = Scorers(Letters(), Letters(), Judge(config.judge))
        summary = curate_here(OneColourModel(), scorers, source, config, tmp_path)
    for outcome in read_outcomes(tmp_path):
        assert isinstance(outcome, Sampled)
        record = outcome.item
        assert [one.answers for one in record.images] == [("red",), ("green",), ("blue",)]
        assert [one.score for one in record.images] == [0.0, 1.0, 0.0]
        assert {one.likelihood for one in record.images} == {None}
    assert (summary.image_pairs, summary.image_ties, summary.mean_self_vqa) == (3, 0, pytest.approx(1 / 3))
    recorded = {"url": endpoint.url, "model": "eyes", "max_tokens": 16}
    for name in (ORIGIN, SUMMARY):
        assert msgspec.json.decode((tmp_path / name).read_bytes())["judge"] == recorded
