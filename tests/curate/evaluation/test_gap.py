"""The gap's arithmetic: ratios, clustered errors, and groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from colour_model import ColourModel, LengthSimilarity
from data_sets import QUESTION, folder_with_image, write_lines
from hypothesis import given
from hypothesis import strategies as st

from curate.evaluation.config import EvalConfig
from curate.evaluation.gap import clustered, compare, gap_error, grouped, measure_gap
from curate.shapes import world
from curate.sources import open_source
from engine.errors import ConfigError, DataError

GRADED = st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=2, max_size=30)


@given(GRADED)
def test_accuracy_is_over_questions_not_over_items(graded: list[list[bool]]) -> None:
    flat = [right for one in graded for right in one]
    score = clustered(graded)
    assert score.value == pytest.approx(np.mean(flat))
    assert score.count == len(flat)


def test_the_error_is_that_of_repeated_samples_of_items() -> None:
    rng = np.random.default_rng(0)

    def sample() -> list[list[bool]]:
        skill = rng.beta(2, 1, 200)
        return [list(rng.random(rng.integers(1, 6)) < one) for one in skill]

    samples = [clustered(sample()) for _ in range(400)]
    spread = np.std([one.value for one in samples])
    assert np.mean([one.se for one in samples]) == pytest.approx(spread, rel=0.15)
    naive = np.sqrt(samples[0].value * (1 - samples[0].value) / samples[0].count)
    assert samples[0].se > 1.1 * naive


@given(GRADED)
def test_a_side_compared_with_itself_has_no_gap_and_no_error(graded: list[list[bool]]) -> None:
    assert compare(graded, graded).gap == 0
    assert gap_error(graded, graded) == pytest.approx(0)


def test_groups_and_kinds_add_up_to_the_whole() -> None:
    items = [world.item("validation", 0, index)[0] for index in range(60)]
    rng = np.random.default_rng(1)
    und = [[bool(x) for x in rng.random(len(item.questions)) < 0.9] for item in items]
    gen = [[bool(x) for x in rng.random(2 * len(item.questions)) < 0.6] for item in items]
    categories = grouped(items, und, gen, lambda item, _: item.category)
    assert sum(group.items for group in categories.values()) == 60
    kinds = grouped(items, und, gen, lambda _, question: question.kind)
    asked = {kind: sum(q.kind == kind for item in items for q in item.questions) for kind in kinds}
    total = sum(asked.values())
    assert sum(kinds[k].und * asked[k] for k in kinds) / total == pytest.approx(clustered(und).value)
    assert sum(kinds[k].gen * asked[k] for k in kinds) / total == pytest.approx(clustered(gen).value)


@pytest.mark.parametrize("name", ["limit", "images", "chunk"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"eval.{name}"):
        EvalConfig(**{name: 0})


def test_items_without_questions_or_a_readable_image_are_left_out_and_said(tmp_path: Path) -> None:
    rows = [
        {
            "id": i,
            "image": "absent.png" if i == 9 else f"{i}.png",
            "caption": "red",
            "questions": [QUESTION] * (i != 4),
        }
        for i in range(20)
    ]
    write_lines(folder_with_image(tmp_path, *(f"{i}.png" for i in range(20))) / "items.jsonl", rows)
    source = open_source(str(tmp_path), "evaluation", 0, 48)
    report = measure_gap(ColourModel(), LengthSimilarity(), source, EvalConfig(chunk=1), lambda done: None)
    assert (report.items, report.und, report.gap) == (2, 1, 0)
    assert [one.where for one in report.unreadable] == ["9"]


def test_nothing_to_measure_is_one_clear_line(tmp_path: Path) -> None:
    rows = [{"id": i, "image": f"{i}.png", "caption": "red"} for i in range(20)]
    write_lines(folder_with_image(tmp_path, *(f"{i}.png" for i in range(20))) / "items.jsonl", rows)
    source = open_source(str(tmp_path), "evaluation", 0, 48)
    with pytest.raises(DataError, match="no held-out item has both a question and an image"):
        measure_gap(ColourModel(), LengthSimilarity(), source, EvalConfig(), lambda done: None)
