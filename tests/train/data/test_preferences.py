"""Reading preference files, and the order in which a run takes them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import DataError
from engine.records import Preference
from train.config import TrainConfig
from train.data.preferences import digest, load_preferences, usable
from train.data.schedule import samples_at


def test_a_file_gives_its_preferences_in_order(pairs_file: Path, preferences: list[Preference]) -> None:
    assert load_preferences(pairs_file) == preferences


def test_a_bad_line_is_named_with_its_file(pairs_file: Path) -> None:
    with pairs_file.open("ab") as lines:
        lines.write(b'{"id": "torn')
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 7: not a preference"):
        load_preferences(pairs_file)


def test_a_repeated_id_is_refused(pairs_file: Path) -> None:
    pairs_file.write_bytes(pairs_file.read_bytes() * 2)
    with pytest.raises(DataError, match=r"line 7: the id 'item-0' occurs a second time"):
        load_preferences(pairs_file)


@pytest.mark.parametrize("content", [None, b"", b"\n\n"])
def test_a_missing_or_empty_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pairs.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="curate"):
        load_preferences(path)


def test_the_digest_sees_order_and_content(preferences: list[Preference]) -> None:
    assert digest(preferences) == digest(list(preferences))
    assert len({digest(preferences), digest(preferences[::-1]), digest(preferences[1:])}) == 3


def test_the_digest_does_not_see_what_log_probs_do_not_depend_on(preferences: list[Preference]) -> None:
    one = preferences[0]
    assert one.captions
    win = msgspec.structs.replace(one.captions.win, score=0.1, text="another wording", seed=99)
    captions = msgspec.structs.replace(one.captions, win=win, win_round=2)
    other = msgspec.structs.replace(one, captions=captions, image_reason="none")
    assert digest([other]) == digest([one])
    for changed in ({"token_ids": (1,)}, {"ended": False}):
        win = msgspec.structs.replace(one.captions.win, **changed)
        captions = msgspec.structs.replace(one.captions, win=win)
        assert digest([msgspec.structs.replace(one, captions=captions)]) != digest([one])


def test_each_objective_takes_the_preferences_that_it_can_use(preferences: list[Preference]) -> None:
    def chosen(**settings) -> list[int]:
        return usable(preferences, TrainConfig(**settings))

    assert chosen() == [0, 1, 2, 3, 4, 5]
    assert chosen(objective="product") == chosen(objective="product", sum_steps=9) == [0, 2, 3, 5]
    assert chosen(objective="softmin") == [0, 1, 2, 3, 4, 5]
    assert chosen(objective="und") == chosen(image_weight=0.0) == [0, 2, 3, 4, 5]
    assert chosen(objective="gen") == [0, 1, 2, 3, 5]


def test_no_usable_preference_is_an_error_and_not_an_empty_run(preferences: list[Preference]) -> None:
    with pytest.raises(DataError, match="objective und"):
        usable([preferences[1]], TrainConfig(objective="und"))


@given(st.integers(1, 23), st.integers(1, 9), st.integers(0, 5))
def test_every_preference_is_taken_once_an_epoch_and_none_is_dropped(
    count: int, batch: int, seed: int
) -> None:
    config = TrainConfig(batch_size=batch, seed=seed)
    found = [one for step in range(2 * count) for one in samples_at(step, count, config)]
    for epoch in range(2):
        assert Counter(one.place for one in found if one.epoch == epoch) == Counter(range(count))


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3))
def test_pairs_come_in_one_of_so_many_epochs_and_their_masks_rotate(
    count: int, every: int, masks: int
) -> None:
    config = TrainConfig(
        batch_size=1, masks_per_step=masks, seed=1, dpo_every_n_epochs=every, image_sft_weight=1.0
    )
    steps = range(6 * every * count)
    found = [one for step in steps for one in samples_at(step, count, config) if one.paired]
    for place in range(count):
        mine = [one for one in found if one.place == place]
        assert [one.epoch % every for one in mine] == [-place % every] * 6
        taken = [number for one in mine for number in one.masks]
        assert taken == [i % 4 for i in range(6 * masks)]


def test_masks_rotate_from_epoch_to_epoch() -> None:
    config = TrainConfig(batch_size=1, masks_per_step=3)
    assert [samples_at(step, 1, config)[0].masks for step in range(3)] == [(0, 1, 2), (3, 0, 1), (2, 3, 0)]
