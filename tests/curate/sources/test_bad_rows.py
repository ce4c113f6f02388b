"""How many bad rows a run may meet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.bad_rows import FEWEST, parse_max_bad, too_many_bad
from curate.config import CurateConfig
from engine.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("1%", (0.01, True)),
        ("0.5%", (0.005, True)),
        ("20", (20, False)),
        ("0", (0, False)),
        ("0%", (0, True)),
    ],
)
def test_a_share_and_a_count_are_told_apart(text: str, limit: tuple[float, bool]) -> None:
    assert parse_max_bad(text) == limit
    assert CurateConfig(max_bad=text).max_bad == text


@pytest.mark.parametrize("text", ["one", "-1", "1.5", "101%", "%", "1 %x", "nan%"])
def test_anything_else_is_refused_with_what_it_got(text: str) -> None:
    with pytest.raises(ConfigError, match="give a share such as 1%") as caught:
        CurateConfig(max_bad=text)
    assert repr(text) in str(caught.value)


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_count_stops_at_the_first_row_too_many(limit: int, bad: int) -> None:
    assert bool(too_many_bad(str(limit), bad, bad, ended=False)) == (bad > limit)


@given(st.integers(0, 100), st.integers(0, 400), st.integers(0, 400), st.booleans())
def test_a_share_is_judged_after_some_rows_or_at_the_end(
    percent: int, bad: int, good: int, ended: bool
) -> None:
    rows = bad + good
    stops = bool(too_many_bad(f"{percent}%", bad, rows, ended))
    assert stops == ((ended or rows >= FEWEST) and 100 * bad > percent * rows)


def test_without_a_limit_nothing_is_too_bad() -> None:
    assert not too_many_bad("", 10**9, 10**9, ended=True)


def test_the_line_names_the_numbers_the_limit_and_the_first_bad_row() -> None:
    line = too_many_bad("1%", 3, 200, ended=False, first="items.jsonl:7: caption is missing")
    assert "3 of 200 rows" in line
    assert "--max-bad 1%" in line
    assert "items.jsonl:7: caption is missing" in line
    assert len(line.splitlines()) == 1
