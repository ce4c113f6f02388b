"""Settings of a curation."""

from __future__ import annotations

from curate.config import CurateConfig, caption_plan
from engine.records import CaptionSettings


def test_a_plan_is_n_times_the_caption_settings() -> None:
    caption = CaptionSettings(temperature=0.7)
    assert caption_plan(CurateConfig(n=3, caption=caption)) == (caption,) * 3


def test_the_official_plan_is_greedy_and_then_a_grid() -> None:
    plan = caption_plan(CurateConfig(n=3, caption_plan="official"))
    assert plan[0].temperature == 0
    assert len(plan) == len(set(plan)) == 10
    grid = {(one.top_k, one.temperature) for one in plan[1:]}
    assert grid == {(k, t) for k in (2, 3, 4) for t in (0.1, 0.7, 2.0)}
    assert {one.max_tokens for one in plan} == {100}
