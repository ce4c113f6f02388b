"""What `report.json` holds."""

from __future__ import annotations

from typing import Literal

from curate.evaluation.agreement import Agreement
from curate.evaluation.paired import Difference
from curate.evaluation.records import GapNumbers
from curate.store.throughput import Throughput
from engine.records import Record

Verdict = Literal["", "better", "no clear change", "worse", "not comparable"]

TIME_FIELDS = ("seconds", "stages", "throughput")
"""Fields of a round that are times or rates; all else is the same in two runs of the same settings."""


class RoundReport(GapNumbers):
    """One round; round 0 is the base model."""

    round: int
    versus_base: Difference | None
    """This round minus the base, paired by item; None for the base, and where they cannot be paired."""
    versus_previous: Difference | None
    """This round minus the one before."""
    verdict: Verdict
    """Whether the round is better than the one before; empty for the base."""
    why: str
    """The verdict in words."""
    pairs: dict[str, int]
    """captions, images: pairs that trained the round; image_ties: those of images whose sides score the same.
    Empty for the base."""
    scored_by: str
    """Who scored the candidates; empty where nothing was curated."""
    agreement: Agreement | None
    """How far that judge agrees with the pixel oracle; None where the oracle cannot judge."""
    seconds: float
    """Wall time of the round's stages."""
    stages: dict[str, float]
    """Stage -> seconds."""
    throughput: Throughput | None
    """Of the command that sampled last."""
    started_from: str = ""
    """Of the weights that training started from; empty for the base, and where that was not recorded."""
    reference: str = ""
    """Of the weights whose log-probs it was held against."""


class RunReport(Record):
    """A run's rounds and the settings that made them."""

    rounds: list[RoundReport]
    """Those that have been evaluated."""
    best: int | None
    """The best round by `best_rule`; None where nothing has been evaluated."""
    best_rule: str
    notes: list[str]
    """What is missing or does not fit, each with what to do about it."""
    commands: list[str]
    """What leads to the same run in a new folder."""
    settings: dict[str, object]
    times: tuple[str, ...] = TIME_FIELDS


class BestRound(Record):
    """`best.json`: where to find the best round's weights."""

    round: int
    checkpoint: str
    """Folder of its weights, relative to the run's; the base model's own folder for round 0."""
    fingerprint: str
    rule: str
