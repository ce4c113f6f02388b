"""The lenient reader of JSON arrays: any official damage, any chunk size."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.sources.json_objects import json_objects
from curate.sources.json_text import TOO_LARGE, json_lines

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=12) | st.floats(width=32)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=6), VALUES, max_size=4), max_size=6)
CHUNKS = st.integers(1, 200)
AWKWARD = 'braces } { in "quotes" \\ and a , {"comma'


def read(data: bytes, chunk: int = 1 << 16) -> list[tuple[int, dict[str, Any] | str]]:
    return list(json_objects(io.BytesIO(data), chunk))


def written(
    objects: list[dict[str, Any]], opened: bool, closed: bool, comma: bool, indent: int | None
) -> bytes:
    """As `json.dump` writes an array, or as the official scripts append to one."""
    parts = [json.dumps(one, indent=indent, ensure_ascii=False) for one in objects]
    end = ",\n" if comma and parts else "\n"
    text = ("[\n" if opened else "") + ",\n".join(parts) + end + ("]" if closed else "")
    return text.encode(errors="replace")


@settings(max_examples=150)
@given(OBJECTS, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, 0, 4]), CHUNKS)
def test_any_objects_survive_any_official_damage_and_any_chunk_size(
    objects: list[dict[str, Any]], opened: bool, closed: bool, comma: bool, indent: int | None, chunk: int
) -> None:
    data = written(objects, opened, closed, comma, indent)
    found = read(data, chunk)
    # Through text, for NaN equals nothing.
    assert [json.dumps(one) for _, one in found] == [
        json.dumps(json.loads(json.dumps(one))) for one in objects
    ]


@settings(max_examples=100)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5), st.data(), CHUNKS)
def test_a_torn_file_costs_its_last_object_alone(
    captions: list[str], data: st.DataObject, chunk: int
) -> None:
    objects = [{"id": i, "caption": caption + AWKWARD} for i, caption in enumerate(captions)]
    *whole, last = [json.dumps(one).encode() for one in objects]
    torn = last[: data.draw(st.integers(1, len(last) - 1))]
    found = read(b"[" + b"".join(one + b",\n" for one in whole) + torn, chunk)
    assert [one for _, one in found if isinstance(one, dict) and one] == objects[:-1]
    assert "has no end" in found[-1][1]


@settings(max_examples=100)
@given(st.binary(max_size=200) | st.text('{}[]," \\\nx1:', max_size=200).map(str.encode), CHUNKS)
def test_any_bytes_are_read_to_their_end_in_order(data: bytes, chunk: int) -> None:
    found = read(data, chunk)
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    assert "" not in [one for _, one in found]
    assert read(data) == found


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    "bad",
    [
        b'{"id": 1, "caption": "torn',
        b'{"id": 1, "capt',
        b"{'id': 1}",
        b'{"id": 1, "caption": "a" "b"}',
        b"{",
        b"17",
        b'"text"',
        b"}",
    ],
)
@pytest.mark.parametrize("between", [b",\n", b",\n    "])
def test_reading_goes_on_behind_a_damaged_object(bad: bytes, between: bytes, chunk: int) -> None:
    good = [{"id": i, "caption": AWKWARD} for i in (0, 2, 3)]
    first, *others = [json.dumps(one).encode() for one in good]
    found = read(b"[" + between.join([first, bad, *others]) + b"]", chunk)
    assert [one for _, one in found if isinstance(one, dict)] == good
    assert len(found) == len(good) + 1


@given(st.integers(0, 400), st.sampled_from([b",", b",\n", b" ,\n      "]), st.integers(1, 50))
def test_an_object_beyond_all_measure_is_passed_over(excess: int, between: bytes, chunk: int) -> None:
    huge = b'{"caption": "' + b"x" * (100 + excess) + b'"}'
    found = json_objects(io.BytesIO(b"[" + huge + between + b'{"id": 1}]'), chunk, most=100)
    assert list(found) == [(1, TOO_LARGE), (2, {"id": 1})]


def test_not_a_number_is_read_as_python_writes_it() -> None:
    ((_, found),) = read(b'[{"score": NaN, "caption": "a"}]')
    assert isinstance(found, dict)
    assert found["caption"] == "a"


def test_a_line_that_is_no_utf8_is_a_reason_and_the_next_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n{"id": "b"}\n')
    (first, problem), (second, row) = json_lines(path)
    assert (first, second, row) == ("rows.jsonl:1", "rows.jsonl:2", {"id": "b"})
    assert isinstance(problem, str)
    assert "utf-8" in problem.lower()
