"""The client of an OpenAI-compatible endpoint: requests in, texts out. The key is sent and never shown."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from anyio.from_thread import start_blocking_portal

from curate.config import EndpointConfig
from engine.errors import UNREADABLE, ConfigError, EngineError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Request = Mapping[str, Any]
"""The body of a chat completion, which has `messages`, or of a plain one, which has a `prompt`; without the
model's name."""

LATER = (408, 409, 429)
"""Statuses besides 5xx that the client tries again."""
NO_SCHEMA = (400, 422)
"""What a server that knows no response format may say to one."""
EXCERPT = 200
"""Characters of an endpoint's own words that an error repeats."""


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class Endpoint:
    """Sends requests to one model, several at once; tries again what time may mend."""

    def __init__(self, config: EndpointConfig) -> None:
        """Raises ConfigError where the variable of the key is not set."""
        self._config = config
        self._key = api_key(config)
        self._url = config.url.rstrip("/")
        self._takes_schema = True

    @property
    def origin(self) -> dict[str, object]:
        """Who answers, as it is stored with the answers."""
        return {"url": self._url, "model": self._config.model}

    def texts(self, requests: Sequence[Request]) -> list[str]:
        """The text that answers each request.

        A server that refuses a `response_format` is asked without it.

        Raises:
            EngineError: the endpoint cannot be reached, refuses a request, or answers with something else.
        """
        # In a thread of its own: whoever calls, such as a notebook, may run an event loop already.
        with start_blocking_portal() as portal:
            return portal.call(self._texts, requests)

    async def _texts(self, requests: Sequence[Request]) -> list[str]:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        gate = asyncio.Semaphore(self._config.concurrency)
        async with AsyncOpenAI(
            api_key="sent with each request",
            base_url=self._url,
            timeout=self._config.timeout,
            max_retries=self._config.retries,
            # A redirect would take the key elsewhere.
            http_client=DefaultAsyncHttpxClient(follow_redirects=False),
        ) as client:
            return await asyncio.gather(*(self._text(client, gate, request) for request in requests))

    async def _text(self, client: AsyncOpenAI, gate: asyncio.Semaphore, request: Request) -> str:
        plain = {name: value for name, value in request.items() if name != "response_format"}
        async with gate:
            body = request if self._takes_schema else plain
            status, found = await self._reply(client, body)
            if status in NO_SCHEMA and "response_format" in body:
                status, found = await self._reply(client, plain)
                self._takes_schema = self._takes_schema and status != 200
        if status != 200:
            raise self._error(found)
        return self._read(found)

    async def _reply(self, client: AsyncOpenAI, body: Request) -> tuple[int, str]:
        """(200, the response), or another status, 0 for none, and what is wrong.

        The client's own errors go no further: they may repeat the key.
        """
        from openai import APIConnectionError, APIStatusError, Omit

        headers = {
            "Authorization": f"Bearer {self._key}" if self._key else Omit(),
            # The client would take both from the environment.
            "OpenAI-Organization": Omit(),
            "OpenAI-Project": Omit(),
        }
        api: Any = client.chat if "messages" in body else client
        create = api.completions.with_raw_response.create
        try:
            response = await create(model=self._config.model, extra_headers=headers, **body)
        except APIConnectionError as error:
            cause = error.__cause__ or error
            return 0, f"no answer ({type(cause).__name__}: {cause}), {self._tries}"
        except APIStatusError as error:
            said = f"status {error.status_code}: {self._excerpt(error.response.text)}"
            if error.status_code in LATER or error.status_code >= 500:
                return error.status_code, f"{said}, {self._tries}"
            return error.status_code, f"{said}; check {self._config.setting}'s url, model and key"
        # As bytes that must be UTF-8: the client would put marks in the place of what is not.
        content: bytes = response.http_response.content
        try:
            return 200, content.decode()
        except UnicodeDecodeError:
            return 502, f"no completion, but {self._excerpt(response.text)}"

    @property
    def _tries(self) -> str:
        return f"up to {self._config.retries + 1} times; the same command goes on once it serves"

    def _read(self, response: str) -> str:
        try:
            choice = msgspec.json.decode(response, type=_Completion).choices[0]
        except (*UNREADABLE, IndexError) as error:
            raise self._error(f"no completion, but {self._excerpt(response)}") from error
        text = choice.message.content if choice.message else choice.text
        if text is None:
            raise self._error(f"no text (finish_reason {choice.finish_reason}); raise max_tokens")
        return text

    def _excerpt(self, response: str) -> str:
        """An endpoint may repeat the key that it was sent."""
        line = " ".join(self._masked(response).split())
        return repr(line if len(line) <= EXCERPT else f"{line[:EXCERPT]}...")

    def _error(self, problem: str) -> EngineError:
        return EngineError(f"the model {self._config.model} at {self._url}: {self._masked(problem)}")

    def _masked(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def api_key(config: EndpointConfig) -> str:
    """The key of the endpoint, empty where none is wanted.

    Raises:
        ConfigError: the variable is not set, or holds what no header can.
    """
    name = config.api_key_env
    key = os.environ.get(name, "").strip() if name else ""
    if name and not key:
        raise ConfigError(f"{config.setting}.api_key_env names {name}, which is not set in the environment")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {name} has characters that no key has")
    return key
