"""What curation and training left of a round, as means over the runs of a row's seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import msgspec

from benchmarks.experiment.results import Pairs, Trained
from benchmarks.experiment.sharing import round_folder
from benchmarks.experiment.statistics import short
from curate.store.files import SUMMARY
from curate.store.summary import CurateSummary
from train.config import METRICS
from train.logging.metrics import ModalityMetrics, TrainStep, read_metrics


def pairs_of(runs: Sequence[Path], number: int) -> Pairs | None:
    found = []
    for run in runs:
        path = round_folder(run, number) / "curate" / SUMMARY
        if path.is_file():
            found.append(msgspec.json.decode(path.read_bytes(), type=CurateSummary))
    if not found:
        return None

    def mean(name: str) -> float:
        return short(fmean(getattr(one, name) for one in found))

    return Pairs(
        items=mean("items"),
        captions=mean("caption_pairs"),
        images=mean("image_pairs"),
        image_ties=mean("image_ties"),
        mean_similarity=mean("mean_similarity"),
        mean_self_vqa=mean("mean_self_vqa"),
    )


def training_of(runs: Sequence[Path], number: int) -> Trained | None:
    paths = [round_folder(run, number) / "checkpoint.training" / METRICS for run in runs]
    found = [read_metrics(path) for path in paths if path.is_file()]
    if not found or not all(found):
        return None
    last = [step for steps in found for step in steps[-max(1, len(steps) // 10) :]]

    def side(name: str, field: str) -> float | None:
        sides: list[ModalityMetrics | None] = [getattr(step, name) for step in last]
        known = [getattr(one, field) for one in sides if one is not None]
        return short(fmean(known)) if known else None

    def whole(read: Callable[[TrainStep], float]) -> float:
        return short(fmean(map(read, last)))

    return Trained(
        steps=len(found[0]),
        loss=whole(lambda step: step.loss),
        accuracy=whole(lambda step: step.accuracy),
        caption_margin=side("captions", "margin"),
        image_margin=side("images", "margin"),
        caption_win_gain=side("captions", "win_gain"),
        image_win_gain=side("images", "win_gain"),
        caption_kl=side("captions", "kl"),
        image_kl=side("images", "kl"),
    )


def mean_seconds(found: Sequence[dict[str, float]]) -> dict[str, float]:
    stages = list(dict.fromkeys(stage for one in found for stage in one))
    return {stage: fmean(one[stage] for one in found if stage in one) for stage in stages}
