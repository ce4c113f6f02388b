"""Named sets of rules for what becomes a pair: the paper's, and the official scripts' for replication."""

from __future__ import annotations

from curate.config import CurateConfig
from engine.records import Record


class Rules(Record):
    """What decides a pair beyond best, worst and Eq. 10. The defaults are the paper's; each field after the
    margins is one thing that the official scripts do otherwise."""

    threshold: float = 0.6
    """Score that the winning image must exceed (paper, section 3.2; both)."""
    caption_margin: float = 0.0
    """Score difference that a pair of captions must exceed."""
    image_margin: float = 0.0
    """Likewise of images."""
    by_likelihood: bool = True
    """Likelihood decides between images of equal score. Official: the first sampled is taken, and in round 1
    images that all score the same make no pair."""
    equal_captions: bool = False
    """Official: the best caption is paired with the worst even where they score the same, which may pair a
    caption with itself (`get_dpo_data.py` compares no scores of captions)."""
    later_unfiltered: bool = False
    """Official: from round 2 on, images pass without the threshold (`get_dpo_data_iterative.py` has none)."""
    later_worse: bool = False
    """Official: from round 2 on, the new best wins against the side that Eq. 10 names even where it scores
    no higher (`get_dpo_data_iterative.py` takes Eq. 10's second branch unchecked)."""
    whole_items: bool = False
    """Official: an item gives both pairs or none, since a record of the official pair file holds both."""


def rules_of(config: CurateConfig) -> Rules:
    """The rules that the settings name."""
    if config.rules == "official":
        return Rules(
            threshold=config.threshold,
            by_likelihood=False,
            equal_captions=True,
            later_unfiltered=True,
            later_worse=True,
            whole_items=True,
        )
    return Rules(
        threshold=config.threshold,
        caption_margin=config.caption_margin,
        image_margin=config.image_margin,
        by_likelihood=config.tie_break == "likelihood",
    )
