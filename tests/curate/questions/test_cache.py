"""What a model said survives kills and is never asked twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.questions.cache import CachedText, CachedTextModel, TextCache
from curate.scoring.endpoint import Request
from engine.errors import DataError


class Echo:
    """Answers with the request; remembers what it was asked."""

    def __init__(self, origin: str = "one") -> None:
        self.origin = origin
        self.asked: list[str] = []

    def texts(self, requests: Sequence[Request]) -> list[str]:
        self.asked += [request["prompt"] for request in requests]
        return [f"{request}" for request in requests]


def prompts(*texts: str) -> list[Request]:
    return [{"prompt": text} for text in texts]


@given(cut=st.integers(0, 400), texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_a_cache_torn_at_any_byte_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("cache") / "said.jsonl"
    said = [CachedText(key=f"{place}", text=text) for place, text in enumerate(texts)]
    cache = TextCache(path)
    cache.add(said)
    cache.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    torn = TextCache(path)
    kept = whole[:cut].count(b"\n")
    assert [torn.get(one.key) for one in said[:kept]] == texts[:kept]
    assert not any(torn.get(one.key) for one in said[kept:])
    torn.add(said[kept:])
    torn.close()
    assert path.read_bytes() == whole


def test_a_line_that_cannot_be_read_is_asked_again_and_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    cache = TextCache(path)
    cache.add([CachedText(key="a", text="1")])
    with path.open("ab") as stream:
        stream.write(b"\x00\x00garbage\n")
    cache.add([CachedText(key="b", text="2")])
    again = TextCache(path)
    assert (again.get("a"), again.get("b"), again.get("c")) == ("1", "2", None)


def test_a_folder_in_the_place_of_the_cache_is_our_own_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        TextCache(tmp_path)


def test_a_model_is_asked_once_over_two_runs(tmp_path: Path) -> None:
    first = Echo()
    said = CachedTextModel(first, TextCache(tmp_path / "said.jsonl")).texts(prompts("a", "b", "a"))
    assert first.asked == ["a", "b"]
    second = Echo()
    model = CachedTextModel(second, TextCache(tmp_path / "said.jsonl"))
    assert model.texts(prompts("b", "c", "a")) == [said[1], "{'prompt': 'c'}", said[0]]
    assert second.asked == ["c"]
    assert (model.asked, model.cached) == (1, 2)


def test_another_model_or_request_is_asked_anew(tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "said.jsonl")
    echo = Echo()
    model = CachedTextModel(echo, cache)
    for request in ({}, {"max_tokens": 6}, {"stop": ["x"]}, {"temperature": 0.5}, {"seed": 1}):
        model.texts([{"prompt": "a", **request}])
        model.texts([{"prompt": "a", **request}])
    assert len(echo.asked) == 5
    other = Echo("two")
    CachedTextModel(other, cache).texts(prompts("a"))
    assert other.asked == ["a"]
