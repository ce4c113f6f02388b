"""An external judge of images: TIFA questions about pixels, put to an OpenAI-compatible endpoint."""

from __future__ import annotations

import base64
import io
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curate.config import JudgeConfig
from engine.errors import ConfigError, EngineError
from engine.records import Answer, Question

SEED = 0
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the second try, doubled before each further one, and the most of any."""
RETRIED = (408, 429)
"""Statuses besides 5xx that a later try may mend."""
EXCERPT = 200
"""Characters of an endpoint's own words that an error repeats."""


class Judge:
    """Answers questions about images, each in a request of its own at temperature 0."""

    def __init__(self, config: JudgeConfig) -> None:
        """Raises ConfigError where the variable of the key is not set."""
        self._config = config
        self._key = api_key(config)
        self._url = f"{config.url.rstrip('/')}/chat/completions"
        self._headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}

    @property
    def origin(self) -> dict[str, object]:
        """What decides the answers, as it is stored with them."""
        config = self._config
        return {"url": config.url.rstrip("/"), "model": config.model, "max_tokens": config.max_tokens}

    def answer(
        self, images: NDArray[np.uint8], questions: Sequence[Sequence[Question]]
    ) -> list[list[Answer]]:
        """Every image's questions as free texts; images uint8 [B, H, W, 3].

        Raises:
            EngineError: the endpoint cannot be reached, refuses a request, or answers with something else.
        """
        bodies = [request(self._config, *one) for one in _asked(images, questions)]
        stop = threading.Event()
        with (
            httpx.Client(headers=self._headers, timeout=self._config.timeout) as client,
            ThreadPoolExecutor(self._config.concurrency) as pool,
        ):
            waiting = [pool.submit(self._ask, client, stop, body) for body in bodies]
            try:
                wait(waiting, return_when=FIRST_EXCEPTION)
                found = iter([one.result() for one in _failed_first(waiting)])
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
        return [[Answer(text=next(found)) for _ in row] for row in questions]

    def _ask(self, client: httpx.Client, stop: threading.Event, body: dict[str, object]) -> str:
        problem, pause = "", FIRST_WAIT
        for last in [False] * self._config.retries + [True]:
            try:
                response = client.post(self._url, json=body)
            except httpx.TransportError as error:
                problem, least = f"no answer ({type(error).__name__}: {error})", 0.0
            else:
                if response.status_code == 200:
                    return self._text(response)
                problem = f"status {response.status_code}: {self._excerpt(response)}"
                if response.status_code not in RETRIED and response.status_code < 500:
                    raise self._error(f"{problem}; check curate.judge's url, model and key")
                least = _retry_after(response)
            if last or stop.wait(min(max(pause, least), LONGEST_WAIT)):
                break
            pause *= 2
        tries = self._config.retries + 1
        raise self._error(f"{problem}, {tries} times; the same command goes on once it serves")

    def _text(self, response: httpx.Response) -> str:
        try:
            choice: Any = msgspec.json.decode(response.content)["choices"][0]
            content = choice["message"]["content"]
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, IndexError, TypeError) as error:
            raise self._error(f"no chat completion, but {self._excerpt(response)}") from error
        if not isinstance(content, str):
            ended = choice.get("finish_reason")
            raise self._error(f"no text (finish_reason {ended}); raise curate.judge.max_tokens")
        return content

    def _excerpt(self, response: httpx.Response) -> str:
        """An endpoint may repeat the key that it was sent."""
        line = " ".join(self._hidden(response.text).split())
        return repr(line if len(line) <= EXCERPT else f"{line[:EXCERPT]}...")

    def _error(self, problem: str) -> EngineError:
        return EngineError(f"the judge at {self._url}: {self._hidden(problem)}")

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def api_key(config: JudgeConfig) -> str:
    """The key of the endpoint, empty where none is wanted.

    Raises:
        ConfigError: the variable is not set, or holds what no header can.
    """
    name = config.api_key_env
    key = os.environ.get(name, "").strip() if name else ""
    if name and not key:
        raise ConfigError(f"curate.judge.api_key_env names {name}, which is not set in the environment")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {name} has characters that no key has")
    return key


def request(config: JudgeConfig, picture: str, question: Question) -> dict[str, object]:
    """The body of one chat completion about a picture, a data URL of a PNG."""
    text = (
        f"Question: {question.question}\nChoices: {', '.join(question.choices)}\n"
        "Look at the image and answer with one of the choices, in exactly its words."
    )
    return {
        "model": config.model,
        "temperature": 0,
        "seed": SEED,
        "max_tokens": config.max_tokens,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": picture}},
                    {"type": "text", "text": text},
                ],
            }
        ],
    }


def data_url(image: NDArray[np.uint8]) -> str:
    """An image uint8 [H, W, 3] as a data URL of a PNG."""
    held = io.BytesIO()
    Image.fromarray(image).save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def _asked(
    images: NDArray[np.uint8], questions: Sequence[Sequence[Question]]
) -> Iterator[tuple[str, Question]]:
    for image, row in zip(images, questions, strict=True):
        picture = data_url(image)
        yield from ((picture, question) for question in row)


def _failed_first(some: Sequence[Future[str]]) -> Sequence[Future[str]]:
    """The same in their order, or those that failed, where some did."""
    failed = [one for one in some if one.done() and not one.cancelled() and one.exception()]
    return failed or some


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the endpoint asks to wait, 0 where it does not say."""
    given = response.headers.get("retry-after", "")
    return float(given) if given.isdecimal() else 0.0
