"""What a model said survives kills and is never asked twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.questions.cache import CachedTextModel, TextCache
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


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_any_text_is_read_back_the_same(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("cache") / "said.sqlite"
    cache = TextCache(path)
    cache.add({f"{place}": text for place, text in enumerate(texts)})
    cache.close()
    again = TextCache(path)
    assert [again.get(f"{place}") for place in range(len(texts) + 1)] == [*texts, None]


def test_a_killed_process_loses_nothing_that_was_added(tmp_path: Path) -> None:
    path = tmp_path / "said.sqlite"
    adds = (
        "import os, signal, sys; from pathlib import Path; from curate.questions.cache import TextCache;"
        "cache = TextCache(Path(sys.argv[1])); cache.add({'a': '1'}); cache.add({'b': '2'});"
        # A half of an answer that is written when the kill comes.
        "cache._file.execute(\"INSERT INTO said VALUES ('c', '3')\");"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", adds, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    again = TextCache(path)
    assert (again.get("a"), again.get("b"), again.get("c")) == ("1", "2", None)


def test_a_file_of_something_else_is_our_own_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "said.sqlite"
    path.write_text('{"key": "a", "text": "1"}\n' * 99)
    with pytest.raises(DataError, match="not a database"):
        TextCache(path)
    assert path.read_text().startswith('{"key"')


def test_a_folder_in_the_place_of_the_cache_is_our_own_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be used: unable to open"):
        TextCache(tmp_path)


def test_a_model_is_asked_once_over_two_runs(tmp_path: Path) -> None:
    first = Echo()
    said = CachedTextModel(first, TextCache(tmp_path / "said.sqlite")).texts(prompts("a", "b", "a"))
    assert first.asked == ["a", "b"]
    second = Echo()
    model = CachedTextModel(second, TextCache(tmp_path / "said.sqlite"))
    assert model.texts(prompts("b", "c", "a")) == [said[1], "{'prompt': 'c'}", said[0]]
    assert second.asked == ["c"]
    assert (model.asked, model.cached) == (1, 2)


def test_another_model_or_request_is_asked_anew(tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "said.sqlite")
    echo = Echo()
    model = CachedTextModel(echo, cache)
    for request in ({}, {"max_tokens": 6}, {"stop": ["x"]}, {"temperature": 0.5}, {"seed": 1}):
        model.texts([{"prompt": "a", **request}])
        model.texts([{"prompt": "a", **request}])
    assert len(echo.asked) == 5
    other = Echo("two")
    CachedTextModel(other, cache).texts(prompts("a"))
    assert other.asked == ["a"]
