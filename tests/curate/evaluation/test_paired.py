"""Differences between two measurements, paired by item."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from colour_model import ColourModel, LengthSimilarity
from data_sets import QUESTION, folder_with_image, write_lines
from hypothesis import given
from hypothesis import strategies as st

from curate.evaluation.config import EvalConfig
from curate.evaluation.gap import clustered, gap_error, measure_gap
from curate.evaluation.paired import not_paired, paired_difference
from curate.evaluation.records import GapReport, ItemScore
from curate.sources import open_source
from engine.records import ImageSettings, Item, SampledImage

ROWS = st.lists(st.tuples(*(st.integers(0, 4) for _ in range(4))), min_size=2, max_size=20)


def report(*rows: tuple[int, int, int, int], config: EvalConfig | None = None) -> GapReport:
    """A measurement of items with so many (right, asked) answers on the real and on the generated side."""
    items = tuple(
        ItemScore(id=str(place), und=und, und_asked=asked, gen=gen, gen_asked=generated)
        for place, (und, asked, gen, generated) in enumerate(rows)
    )
    return GapReport(
        und=0, und_se=0, gen=0, gen_se=0, gap=0, gap_se=0, judge="oracle", items=len(items), by_category={},
        by_objects={}, by_kind={}, fingerprint="", config=config or EvalConfig(), per_item=items,
    )  # fmt: skip


def test_a_difference_is_what_a_hand_computes() -> None:
    before = report((2, 2, 1, 4), (1, 2, 2, 4), (3, 4, 4, 8))
    after = report((1, 2, 3, 4), (1, 2, 2, 4), (4, 4, 6, 8))
    found = paired_difference(before, after)
    # und: items move by -1, 0, +1 of 8 questions; gen: by +2, 0, +2 of 16.
    assert found.items == 3
    assert found.und.value == pytest.approx(0)
    assert found.gen.value == pytest.approx(4 / 16)
    assert found.gap.value == pytest.approx(-1 / 4)
    und = [(-1 - 0 * 2) / 8, 0, (1 - 0 * 4) / 8]
    gen = [(2 - 4 / 4) / 16, (0 - 4 / 4) / 16, (2 - 8 / 4) / 16]
    for one, moved in (
        (found.und, und),
        (found.gen, gen),
        (found.gap, [a - b for a, b in zip(und, gen, strict=True)]),
    ):
        assert one.se == pytest.approx(math.sqrt(sum(x * x for x in moved) * 3 / 2))


@given(ROWS)
def test_a_measurement_differs_from_itself_by_nothing(rows: list[tuple[int, int, int, int]]) -> None:
    one = report(*((und, 4, gen, 8) for und, _, gen, _ in rows))
    found = paired_difference(one, one)
    assert (found.und.value, found.gen.value, found.gap.value) == (0, 0, 0)
    assert found.gap.se == 0
    assert not found.gap.clear


@given(ROWS)
def test_a_difference_turned_round_changes_its_sign_alone(rows: list[tuple[int, int, int, int]]) -> None:
    before = report(*((a, 4, b, 8) for a, b, _, _ in rows))
    after = report(*((a, 4, b, 8) for _, _, a, b in rows))
    there, back = paired_difference(before, after), paired_difference(after, before)
    for name in ("und", "gen", "gap"):
        one, other = getattr(there, name), getattr(back, name)
        assert one.value == pytest.approx(-other.value)
        assert one.se == pytest.approx(other.se)


def test_pairing_takes_out_what_makes_items_hard() -> None:
    rng = np.random.default_rng(0)
    values, errors, apart = [], [], []
    for _ in range(300):
        skill = rng.beta(1, 1, 150)
        sides = [
            report(*((4, 4, right, 8) for right in rng.binomial(8, np.clip(skill + shift, 0, 1))))
            for shift in (0, 0.05)
        ]
        found = paired_difference(*sides).gen
        values.append(found.value)
        errors.append(found.se)
        graded = [
            [[True] * one.gen + [False] * (one.gen_asked - one.gen) for one in side.per_item]
            for side in sides
        ]
        apart.append(math.hypot(*(clustered(one).se for one in graded)))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)
    assert np.mean(errors) < 0.6 * np.mean(apart)


def test_the_error_of_a_gap_is_that_of_a_paired_difference_of_its_sides() -> None:
    und, gen = [[True, False], [True, True], [False]], [[False, False], [True, False], [True]]
    moved = [(1 - 0.6 * 2) / 5 - (0 - 0.4 * 2) / 5, (2 - 0.6 * 2) / 5 - (1 - 0.4 * 2) / 5, (-0.6 - 0.6) / 5]
    assert gap_error(und, gen) == pytest.approx(math.sqrt(sum(x * x for x in moved) * 3 / 2))


def test_items_that_only_one_side_measured_are_left_out() -> None:
    before, after = report((2, 2, 2, 4), (1, 2, 2, 4), (0, 2, 0, 4)), report((2, 2, 4, 4), (1, 2, 4, 4))
    found = paired_difference(before, after)
    assert found.items == 2
    assert found.gen.value == pytest.approx(0.5)


def test_what_cannot_be_paired_says_why() -> None:
    rows = ((2, 2, 2, 4), (1, 2, 2, 4))
    one = report(*rows)
    assert "without keeping the items" in not_paired(msgspec.structs.replace(one, per_item=()), one)
    other = report(*rows, config=EvalConfig(seed=7, image=ImageSettings(guidance=3)))
    assert "eval.seed, eval.image" in not_paired(one, other)
    assert "judges differ" in not_paired(one, msgspec.structs.replace(one, judge="self-VQA"))
    assert "fewer than two" in not_paired(one, report((2, 2, 2, 2), (1, 3, 2, 4)))
    assert not_paired(one, report(*rows, config=EvalConfig(limit=7, chunk=1))) == ""
    with pytest.raises(ValueError, match="judges differ"):
        paired_difference(one, msgspec.structs.replace(one, judge="self-VQA"))


def test_a_measurement_keeps_its_items_and_shows_the_first_image_of_each(tmp_path: Path) -> None:
    rows = [
        {"id": i, "image": f"{i}.png", "caption": "red", "questions": [QUESTION] * (1 + i % 2)}
        for i in range(20)
    ]
    write_lines(folder_with_image(tmp_path, *(f"{i}.png" for i in range(20))) / "items.jsonl", rows)
    source = open_source(str(tmp_path), "evaluation", 0, 48)
    shown: list[tuple[str, SampledImage, int]] = []

    def keep(item: Item, image: SampledImage, right: list[bool]) -> None:
        shown.append((item.id, image, len(right)))

    config = EvalConfig(chunk=3, images=2)
    found = measure_gap(ColourModel(), LengthSimilarity(), source, config, lambda done: None, keep)
    asked = {item.id: len(item.questions) for item in source.items()}
    assert [(id_, count) for id_, _, count in shown] == list(asked.items())
    assert all(image.codes == (0,) for _, image, _ in shown)
    assert {one.id: (one.und_asked, one.gen_asked) for one in found.per_item} == {
        id_: (count, 2 * count) for id_, count in asked.items()
    }
    assert sum(one.gen for one in found.per_item) / sum(one.gen_asked for one in found.per_item) == found.gen
