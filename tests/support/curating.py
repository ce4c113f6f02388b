"""Curation in one process, with whatever model and scorers a test has."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from curate.config import CurateConfig
from curate.pipeline import curate
from curate.protocol import UnifiedModel
from curate.sampling import CandidateSampler
from curate.scoring.scorers import Scorers
from curate.sources import Source
from curate.store.origin import Origin, Serving, origin_of
from curate.store.previous_pairs import PairHistory
from curate.store.summary import CurateSummary
from curate.workers.pool import LocalPool
from engine.files.clip_features import FEATURES


def curate_here(
    model: UnifiedModel,
    scorers: Scorers,
    source: Source,
    config: CurateConfig,
    folder: Path,
    round_number: int = 1,
    seed: int = 0,
    earlier: Iterable[Path] = (),
    retry_failed: bool = False,
) -> CurateSummary:
    """Curates a source into a folder."""
    sampler = CandidateSampler(model, scorers, source, config, round_number, seed, folder / FEATURES)
    serving = Serving(model=model.fingerprint, precision=model.precision)
    origin = origin_of(serving, source, config, scorers, round_number, seed)
    return curate(
        lambda: nullcontext(LocalPool(sampler)),
        source,
        config,
        folder,
        origin,
        PairHistory(earlier),
        lambda done, note: None,
        retry_failed=retry_failed,
    )


def some_origin(round_number: int = 1) -> Origin:
    """An origin where it does not matter which."""
    return Origin(
        model="m",
        precision="float32",
        data="d",
        round=round_number,
        seed=0,
        n=2,
        captions=[],
        image={},
        answer={},
        similarity="s",
    )
