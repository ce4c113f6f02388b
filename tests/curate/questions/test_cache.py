"""What a model said survives kills and is never asked twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.questions.cache import Remembering, Said, TextCache
from engine.errors import DataError
from engine.records import TextPrompt


class Echo:
    """Answers with the prompt and the settings; remembers what it was asked."""

    reserved = ()

    def __init__(self, fingerprint: str = "one") -> None:
        self.fingerprint = fingerprint
        self.asked: list[str] = []

    def generate(
        self,
        prompts: Sequence[TextPrompt],
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        self.asked += [prompt.text for prompt in prompts]
        return [f"{prompt.text}\n{max_tokens} {temperature} {seed}" for prompt in prompts]


def prompts(*texts: str) -> list[TextPrompt]:
    return [TextPrompt(text=text) for text in texts]


@given(cut=st.integers(0, 400), texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_a_cache_torn_at_any_byte_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("cache") / "said.jsonl"
    said = [Said(key=f"{place}", text=text) for place, text in enumerate(texts)]
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
    cache.add([Said(key="a", text="1")])
    with path.open("ab") as stream:
        stream.write(b"\x00\x00garbage\n")
    cache.add([Said(key="b", text="2")])
    again = TextCache(path)
    assert (again.get("a"), again.get("b"), again.get("c")) == ("1", "2", None)


def test_a_folder_in_the_place_of_the_cache_is_our_own_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        TextCache(tmp_path)


def test_a_model_is_asked_once_over_two_runs(tmp_path: Path) -> None:
    first = Echo()
    said = Remembering(first, TextCache(tmp_path / "said.jsonl")).generate(prompts("a", "b", "a"), 5)
    assert first.asked == ["a", "b"]
    second = Echo()
    model = Remembering(second, TextCache(tmp_path / "said.jsonl"))
    assert model.generate(prompts("b", "c", "a"), 5) == [said[1], "c\n5 0.0 0", said[0]]
    assert second.asked == ["c"]
    assert (model.asked, model.cached) == (1, 2)


def test_another_model_prompt_or_setting_is_asked_anew(tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "said.jsonl")
    echo = Echo()
    model = Remembering(echo, cache)
    model.generate(prompts("a"), 5)
    model.generate(prompts("a"), 6)
    model.generate(prompts("a"), 5, ("x",))
    model.generate(prompts("a"), 5, (), 0.5)
    model.generate(prompts("a"), 5, (), 0.5, 1)
    model.generate([TextPrompt(text="a", chat=False)], 5)
    assert len(echo.asked) == 6
    model.generate(prompts("a"), 5, (), 0.0, 1)
    assert len(echo.asked) == 6, "a seed decides nothing where nothing is drawn"
    other = Echo("two")
    Remembering(other, cache).generate(prompts("a"), 5)
    assert other.asked == ["a"]
