"""JSON arrays and lines, however they were left."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.exchange.json_objects import json_objects

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=5)

FLAT = st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=3), min_size=1, max_size=4)


def values(data: bytes, chunk: int = 1 << 16) -> list[object]:
    return [one.value for one in json_objects(io.BytesIO(data), chunk)]


@settings(deadline=None, max_examples=50)
@given(
    OBJECTS, st.sampled_from(["[]", "[", "]", ""]), st.sampled_from([",\n", "\n", ",", ",,\n"]), st.booleans()
)
def test_every_object_is_found_whatever_stands_between(
    objects: list[dict[str, object]], brackets: str, between: str, pretty: bool
) -> None:
    texts = [json.dumps(one, indent=4 if pretty else None, ensure_ascii=pretty) for one in objects]
    data = brackets[:1].replace("]", "") + between.join([*texts, ""]) + brackets[-1:].replace("[", "")
    for chunk in (1, 7, 1 << 16):
        assert values(data.encode(), chunk) == objects


@settings(deadline=None, max_examples=50)
@given(FLAT, st.data())
def test_a_torn_end_costs_the_last_object_alone(
    objects: list[dict[str, object]], data: st.DataObject
) -> None:
    texts = [json.dumps(one).encode() + b",\n" for one in objects]
    cut = data.draw(st.integers(1, len(texts[-1]) - 3))
    found = list(json_objects(io.BytesIO(b"".join(texts[:-1]) + texts[-1][:cut]), 16))
    assert [one.value for one in found] == [*objects[:-1], None]
    assert "no end" in found[-1].problem


@pytest.mark.parametrize(
    "damaged", ['{"a": 1,}', '{"a": nothing}', '{"a" 1}', "{1: 2}", '{"a": {"b": 1}', '{"a": "open']
)
def test_a_damaged_object_is_named_and_the_next_one_is_read(damaged: str) -> None:
    found = list(json_objects(io.BytesIO(f'[{{"id": 1}},\n{damaged},\n{{"id": 3}}]'.encode())))
    assert [one.number for one in found] == [1, 2, 3]
    assert [one.value for one in found] == [{"id": 1}, None, {"id": 3}]
    assert found[1].problem
