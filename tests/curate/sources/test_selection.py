"""A random subset: reproducible, of the right size, and independent of what does not matter."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from data_sets import write_lines
from hypothesis import given
from hypothesis import strategies as st

from curate.config import CurateConfig
from curate.sources import Tally, load_source, open_source, select
from curate.sources.selection import selection_bound, selection_hash
from engine.errors import DataError
from hermes_cli.settings import RunSettings
from hermes_cli.stages.curate import training_source

IDS = st.lists(st.text(max_size=8), unique=True, max_size=60)
NUMBERS = st.integers(1, 40)
SEEDS = st.integers(-5, 2**70)


def selected(ids: list[str], number: int, seed: int) -> set[str]:
    bound = selection_bound(ids, number, seed)
    return {one for one in ids if selection_hash(seed, one) <= bound}


@given(IDS, NUMBERS, SEEDS)
def test_a_selection_has_its_size_and_is_made_again_the_same(ids: list[str], number: int, seed: int) -> None:
    found = selected(ids, number, seed)
    assert len(found) == min(number, len(ids))
    assert selected(ids, number, seed) == found


@given(IDS, NUMBERS, SEEDS, st.randoms())
def test_a_selection_does_not_depend_on_the_order_of_rows(
    ids: list[str], number: int, seed: int, random
) -> None:
    shuffled = ids[:]
    random.shuffle(shuffled)
    assert selected(shuffled, number, seed) == selected(ids, number, seed)


@given(IDS, NUMBERS, SEEDS, st.data())
def test_when_the_data_grows_new_rows_alone_can_enter(
    ids: list[str], number: int, seed: int, data: st.DataObject
) -> None:
    old = ids[: data.draw(st.integers(0, len(ids)))]
    before, after = selected(old, number, seed), selected(ids, number, seed)
    assert after & set(old) <= before


@given(IDS, NUMBERS, SEEDS)
def test_a_larger_selection_holds_the_smaller_one(ids: list[str], number: int, seed: int) -> None:
    assert selected(ids, number, seed) <= selected(ids, number + 7, seed)


def test_every_row_is_as_likely_as_any_other_and_seeds_differ() -> None:
    ids = [str(i) for i in range(40)]
    counts = dict.fromkeys(ids, 0)
    for seed in range(400):
        for one in selected(ids, 10, seed):
            counts[one] += 1
    # 400 draws with p = 1/4; five standard deviations.
    assert all(abs(count - 100) < 5 * math.sqrt(400 / 4 * 3 / 4) for count in counts.values())
    assert selected(ids, 10, 0) != selected(ids, 10, 1)


def make(path: Path, count: int) -> str:
    bad = [{"question": "?"}]
    rows = [{"id": f"{i}", "image": "a.png", "caption": "c", "questions": bad} for i in range(count)]
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
    source = select(open_source(make(tmp_path / "m.jsonl", 500), "", 0, 48), 5, 0)
    tally = Tally()
    rows = list(source.rows(tally))
    assert [row.where for row in rows if row.item is None] == ["m.jsonl:51"]
    assert (len(rows), tally.rows, tally.quarantined) == (6, 501, 1)
    assert (tally.dropped_questions, tally.without_questions) == (5, 5)


def test_more_than_there_is_selects_all(tmp_path: Path) -> None:
    assert len(select(open_source(make(tmp_path / "m.jsonl", 60), "", 0, 48), 1000, 0).items()) == 60


def test_the_endless_shapes_cannot_be_selected_from() -> None:
    with pytest.raises(DataError, match="--limit"):
        load_source("shapes", "train", 10, 0, 48, 5)


@pytest.mark.parametrize("number", [0, 60])
def test_parts_of_a_source_follow_each_other_without_a_gap(tmp_path: Path, number: int) -> None:
    data = make(tmp_path / "m.jsonl", 300)
    whole = load_source(data, "train", 0, 3, 48, number).items()
    parts = [
        item
        for skip in range(0, len(whole), 25)
        for item in load_source(data, "train", 25, 3, 48, number, skip).items()
    ]
    assert parts == [*whole]


def test_a_part_beyond_the_end_is_refused(tmp_path: Path) -> None:
    data = make(tmp_path / "m.jsonl", 30)
    with pytest.raises(DataError, match="no usable item beyond the first 30"):
        load_source(data, "", 10, 0, 48, skip=30)


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
