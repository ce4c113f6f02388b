"""The harness: sides in turns, ratios against the first, options from a record, a file of all timings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from benchmarks.speed import bench
from benchmarks.speed.bench import BenchResult, Side, Timing, chosen, contest, line, parser_for, timings
from engine.records import Record


class Work(Record):
    size: int = 3
    rate: float = 0.5
    kind: Literal["plain", "fancy"] = "plain"
    sizes: tuple[int, ...] = (1, 2)
    model: Path = Path("here")


def test_sides_take_turns_and_warm_up() -> None:
    calls: list[tuple[str, int]] = []
    sides = {name: Side(lambda number, name=name: calls.append((name, number)), 2) for name in "ab"}
    found = contest("work", sides, repeats=2, warmups=1, same={"b": True})
    assert calls == [(name, number) for number in range(3) for name in "ab"]
    assert [(one.side, one.same, len(one.seconds)) for one in found] == [("a", None, 2), ("b", True, 2)]
    assert found[0].ratio == 1


def test_a_ratio_is_the_first_sides_rate_over_the_others() -> None:
    first, other = timings("work", {"a": 4, "b": 1}, {"a": [1.0, 2.0, 4.0], "b": [1.0, 1.0, 2.0]}, {})
    assert (first.rate, first.ratio, first.spread) == (2.0, 1.0, (1.0, 1.0))
    assert (other.rate, other.ratio, other.spread) == (1.0, 2.0, (2.0, 4.0))
    assert "2.00x (2.00 to 4.00)" in line(other)
    assert line(Timing(work="w", side="s", same=False, reason="why")).endswith("same results: NO  why")


def test_every_field_of_the_settings_is_an_option() -> None:
    parser = parser_for(Work, "about")
    given = parser.parse_args(["--size", "4", "--kind", "fancy", "--sizes", "7", "8"])
    assert chosen(Work(rate=1.0), given) == Work(size=4, rate=1.0, kind="fancy", sizes=(7, 8))
    with pytest.raises(SystemExit):
        parser.parse_args(["--kind", "other"])


def test_a_script_prints_and_keeps_its_timings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(given: Work) -> Iterator[Timing]:
        yield Timing(work="w", side="s", figures={"size": given.size})

    path = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["script", "--quick", "--rate", "2", "--to", str(path)])
    bench.run("script", "about", Work(), measure, quick=Work(size=9))
    found = msgspec.json.decode(path.read_bytes(), type=BenchResult)
    assert found.timings[0].figures == {"size": 9}
    assert (found.settings["size"], found.settings["rate"], found.settings["model"]) == (9, 2.0, "here")
    assert "size 9" in capsys.readouterr().out
