"""A random subset: reproducible, of the right size, and independent of what does not matter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from data_sets import write_lines
from hypothesis import given
from hypothesis import strategies as st

from curate.config import CurateConfig
from curate.sources import DataRow, load_source
from curate.sources.annotations import AnnotationReader
from curate.sources.loading import random_subset
from engine.errors import DataError
from hermes_cli.settings import RunSettings
from hermes_cli.stages.curate import training_source

IDS = st.lists(st.text(max_size=8), unique=True, max_size=60)
NUMBERS = st.integers(1, 40)
SEEDS = st.integers(-5, 2**70)


@given(IDS, NUMBERS, SEEDS)
def test_a_selection_has_its_size_and_is_made_again_the_same(ids: list[str], number: int, seed: int) -> None:
    found = random_subset(ids, number, seed)
    assert len(found) == min(number, len(ids))
    assert random_subset(ids, number, seed) == found


@given(IDS, NUMBERS, SEEDS, st.randoms())
def test_a_selection_does_not_depend_on_the_order_of_rows(
    ids: list[str], number: int, seed: int, random
) -> None:
    shuffled = ids[:]
    random.shuffle(shuffled)
    assert random_subset(shuffled, number, seed) == random_subset(ids, number, seed)


@given(IDS, NUMBERS, SEEDS, st.data())
def test_when_the_data_grows_new_rows_alone_can_enter(
    ids: list[str], number: int, seed: int, data: st.DataObject
) -> None:
    old = ids[: data.draw(st.integers(0, len(ids)))]
    before, after = random_subset(old, number, seed), random_subset(ids, number, seed)
    assert after & set(old) <= before


@given(IDS, NUMBERS, SEEDS)
def test_a_larger_selection_holds_the_smaller_one(ids: list[str], number: int, seed: int) -> None:
    assert random_subset(ids, number, seed) <= random_subset(ids, number + 7, seed)


def test_every_row_is_as_likely_as_any_other_and_seeds_differ() -> None:
    ids = [str(i) for i in range(40)]
    counts = dict.fromkeys(ids, 0)
    for seed in range(400):
        for one in random_subset(ids, 10, seed):
            counts[one] += 1
    # 400 draws with p = 1/4; five standard deviations.
    assert all(abs(count - 100) < 5 * math.sqrt(400 / 4 * 3 / 4) for count in counts.values())
    assert random_subset(ids, 10, 0) != random_subset(ids, 10, 1)


def make(path: Path, count: int) -> str:
    bad = [{"question": "?"}]
    rows = [{"id": f"{i}", "image": f"{i}.png", "caption": "c", "questions": bad} for i in range(count)]
    return str(write_lines(path, [*rows[:50], "damaged", *rows[50:]]))


def test_a_source_gives_its_selection_in_its_own_order_and_limit_takes_the_first(tmp_path: Path) -> None:
    data = make(tmp_path / "m.jsonl", 500)
    whole = [int(item.id) for item in load_source(data, "train", 0, 3, 48, 60).items()]
    assert len(whole) == 60
    assert whole == sorted(whole)
    assert max(whole) > 400
    assert [int(item.id) for item in load_source(data, "train", 7, 3, 48, 60).items()] == whole[:7]
    train = {item.id for item in load_source(data, "train", 0, 3, 48).items()}
    assert {str(one) for one in whole} <= train


def test_rows_that_cannot_be_used_are_listed_though_others_are_selected(tmp_path: Path) -> None:
    source = load_source(make(tmp_path / "m.jsonl", 500), "", 0, 0, 48, select=5)
    rows = list(source.rows())
    assert [row.where for row in rows if row.item is None] == ["m.jsonl:51"]
    assert len(rows) == 6
    assert all(row.dropped for row in rows if row.item)


def test_more_than_there_is_selects_all(tmp_path: Path) -> None:
    assert len(load_source(make(tmp_path / "m.jsonl", 60), "", 0, 0, 48, select=1000).items()) == 60


def test_the_endless_shapes_cannot_be_selected_from() -> None:
    with pytest.raises(DataError, match="--limit"):
        load_source("shapes", "train", 10, 0, 48, 5)


@pytest.mark.parametrize("number", [0, 60])
def test_parts_of_a_source_follow_each_other_without_a_gap_and_begin_again(
    tmp_path: Path, number: int
) -> None:
    data = make(tmp_path / "m.jsonl", 300)
    whole = load_source(data, "train", 0, 3, 48, number).items()
    count = -(-len(whole) // 25)
    parts = [load_source(data, "train", 25, 3, 48, number, part).items() for part in range(count + 1)]
    assert [item for part in parts[:-1] for item in part] == [*whole]
    assert parts[-1] == parts[0]


ROWS = st.lists(st.booleans(), min_size=1, max_size=30)
"""Whether each row of a file can be used."""


@given(ROWS, st.integers(0, 8), st.integers(0, 8), st.integers(0, 5), st.sampled_from(["", "train"]))
def test_what_a_source_counts_is_what_its_rows_give(
    tmp_path_factory: pytest.TempPathFactory, rows: list[bool], limit: int, number: int, part: int, split: str
) -> None:
    fields = [{"id": i, "image": f"{i}.png", "caption": "c" if good else ""} for i, good in enumerate(rows)]
    path = write_lines(tmp_path_factory.mktemp("data") / "items.jsonl", fields)
    if not any(good and not (split and i % 5 == 4) for i, good in enumerate(rows)):
        with pytest.raises(DataError, match="no usable item"):
            load_source(str(path), split, limit, 0, 48, number, part)
        return
    source = load_source(str(path), split, limit, 0, 48, number, part)
    found = list(source.rows())
    assert source.counts.rows == len(found)
    assert source.counts.items == sum(row.item is not None for row in found)


def test_a_command_reads_a_data_set_twice_whatever_it_takes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = 0
    read = AnnotationReader.rows

    def counting(reader: AnnotationReader) -> Iterator[DataRow]:
        nonlocal readings
        readings += 1
        return read(reader)

    monkeypatch.setattr(AnnotationReader, "rows", counting)
    data = make(tmp_path / "items.jsonl", 60)
    config = CurateConfig(limit=10, select=30, fresh_prompts=True)
    list(training_source(RunSettings(data=data, curate=config), 3).rows())
    assert readings == 2


def test_the_endless_shapes_have_fresh_items_for_every_round() -> None:
    settings = RunSettings(curate=CurateConfig(limit=20, fresh_prompts=True))
    rounds = [{item.id for item in training_source(settings, number).items()} for number in (1, 2, 3)]
    assert [len(one) for one in rounds] == [20, 20, 20]
    assert len(set.union(*rounds)) == 60
    same = msgspec.structs.replace(settings, curate=CurateConfig(limit=20))
    assert {item.id for item in training_source(same, 2).items()} == rounds[0]


def test_fresh_items_begin_again_where_the_data_set_ends(tmp_path: Path) -> None:
    data = make(tmp_path / "m.jsonl", 60)
    whole = [item.id for item in load_source(data, "train", 0, 0, 48).items()]
    assert len(whole) == 48
    settings = RunSettings(data=data, curate=CurateConfig(limit=20, fresh_prompts=True))
    rounds = [[item.id for item in training_source(settings, number).items()] for number in range(1, 6)]
    assert rounds == [whole[:20], whole[20:40], whole[40:], whole[:20], whole[20:40]]
    unlimited = msgspec.structs.replace(settings, curate=CurateConfig(limit=0, fresh_prompts=True))
    assert [item.id for item in training_source(unlimited, 2).items()] == whole
