"""`report.json`: what each round gave."""

from __future__ import annotations

import msgspec

from benchmarks.quality.records import CategoryGap, GapReport
from curate.store import SUMMARY, write_file
from engine.records import Record
from hermes_cli.run_folder import RunFolder


class RoundReport(Record):
    """One round; round 0 is the base model."""

    round: int
    und: float
    und_se: float
    gen: float
    gen_se: float
    gap: float
    gap_se: float
    by_category: dict[str, CategoryGap]
    by_objects: dict[str, CategoryGap]
    by_kind: dict[str, CategoryGap]
    pairs: dict[str, int]
    """captions, images: pairs that trained the round; image_ties: those of images whose sides score the same.
    Empty for the base."""
    seconds: float
    """Wall time of the round's stages."""
    stages: dict[str, float]
    """Stage -> seconds."""
    fingerprint: str


class Report(Record):
    """A run's rounds, the judge, and the settings that made them."""

    rounds: list[RoundReport]
    judge: str
    settings: dict[str, object]


def _pairs(folder: RunFolder, number: int) -> dict[str, int]:
    path = folder.curation(number) / SUMMARY
    if number == 0 or not path.is_file():
        return {}
    summary = msgspec.json.decode(path.read_bytes())
    return {
        "captions": summary["caption_pairs"],
        "images": summary["image_pairs"],
        "image_ties": summary.get("image_ties", 0),
    }


def build_report(folder: RunFolder) -> Report:
    """The report of every round that has been evaluated."""
    rounds, judge = [], ""
    for number in folder.rounds():
        path = folder.evaluation(number)
        if not path.is_file():
            continue
        found = msgspec.json.decode(path.read_bytes(), type=GapReport)
        judge = found.judge
        stages = folder.seconds(number)
        rounds.append(
            RoundReport(
                round=number,
                und=found.und,
                und_se=found.und_se,
                gen=found.gen,
                gen_se=found.gen_se,
                gap=found.gap,
                gap_se=found.gap_se,
                by_category=found.by_category,
                by_objects=found.by_objects,
                by_kind=found.by_kind,
                pairs=_pairs(folder, number),
                seconds=sum(stages.values()),
                stages=stages,
                fingerprint=found.fingerprint,
            )
        )
    return Report(rounds=rounds, judge=judge, settings=msgspec.json.decode(folder.settings.read_bytes()))


def write_report(folder: RunFolder) -> Report:
    """Builds and stores the report."""
    report = build_report(folder)
    write_file(folder.report, msgspec.json.format(msgspec.json.encode(report)))
    return report
