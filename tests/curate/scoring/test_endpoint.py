"""What an endpoint is asked beside images, and what its refusals lead to."""

from __future__ import annotations

import asyncio
import json

import pytest
from chat_endpoint import Reply, serving

from curate.config import EndpointConfig
from curate.scoring.endpoint import Endpoint, Request
from engine.errors import EngineError

CHAT: Request = {
    "messages": [{"role": "user", "content": "hello"}],
    "response_format": {"type": "json_object"},
}
REFUSED = Reply(400, "response_format is not supported")


def said(text: str) -> Reply:
    return Reply(200, json.dumps({"choices": [{"message": {"content": text}}]}))


def endpoint(url: str) -> Endpoint:
    return Endpoint(EndpointConfig(url=url, model="words", concurrency=1))


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_knows_no_format_is_asked_without_one_from_then_on(status: int) -> None:
    with serving(Reply(status), said("a"), said("b"), said("c")) as server:
        model = endpoint(server.url)
        assert model.texts([CHAT, CHAT]) == ["a", "b"]
        assert model.texts([CHAT]) == ["c"]
    assert ["response_format" in one["body"] for one in server.requests] == [True, False, False, False]


def test_a_request_that_is_refused_anyway_is_an_error_and_says_nothing_about_formats() -> None:
    with serving(REFUSED, Reply(400, "too long"), said("a")) as server:
        model = endpoint(server.url)
        with pytest.raises(EngineError, match=r"the model words at .*/v1: status 400: 'too long'"):
            model.texts([CHAT])
        assert model.texts([CHAT]) == ["a"]
    assert ["response_format" in one["body"] for one in server.requests] == [True, False, True]


def test_a_prompt_is_no_chat() -> None:
    with serving(Reply(200, json.dumps({"choices": [{"text": " and on"}]}))) as server:
        assert endpoint(server.url).texts([{"prompt": "on", "stop": ["\n"]}]) == [" and on"]
    assert server.requests[0]["path"] == "/v1/completions"
    assert server.requests[0]["body"] == {"model": "words", "prompt": "on", "stop": ["\n"]}


def test_a_caller_may_run_an_event_loop() -> None:
    async def ask(url: str) -> list[str]:
        return endpoint(url).texts([CHAT])

    with serving(said("a")) as server:
        assert asyncio.run(ask(server.url)) == ["a"]
