"""A curation of fewer candidates or items out of a wider one.

A candidate depends on its item, its kind and its index alone, so the first n candidates of a curation are
those that a curation of n candidates samples, and the first items likewise. `hermes curate` then finds all
rows there, starts no engine, and makes pairs by its own rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import msgspec

from benchmarks.experiment.settings import CellSettings, Tree
from benchmarks.experiment.sharing import check_curation, round_folder
from curate.store.files import ORIGIN
from curate.store.outcomes import Outcome, Sampled
from curate.store.shards import ROWS, ShardStore, read_outcomes

PAIRING = ("threshold", "min_margin", "caption_margin", "image_margin", "tie_break")
"""Settings of a curation that choose among its candidates, and sample nothing."""


def sampling_basis(settings: CellSettings) -> Tree:
    """What decides the candidates, but for how many there are."""
    basis = dict(settings.curation_basis)
    free = {"n", "limit", *PAIRING}
    basis["curate"] = {name: value for name, value in basis["curate"].items() if name not in free}
    return basis


def contains(wide: CellSettings, narrow: CellSettings) -> bool:
    """Whether all candidates of the one are among those of the other."""
    ours, theirs = narrow.curate, wide.curate
    return (
        ours.n <= theirs.n
        and 0 < ours.limit <= theirs.limit
        and not ours.caption_plan
        and sampling_basis(wide) == sampling_basis(narrow)
    )


def narrow_curation(source: Path, wide: CellSettings, run: Path, settings: CellSettings) -> None:
    """Fills a run's curation of round 1 with what it has in common with a wider, finished one.

    Nothing is done where it has been begun.

    Raises:
        StaleError: the wider one was made under other settings than `wide`.
    """
    if not contains(wide, settings):
        raise ValueError("the wider curation does not hold this one")
    check_curation(source, wide)
    theirs, ours = (round_folder(one, 1) / "curate" for one in (source, run))
    if (ours / ORIGIN).is_file():
        return
    with ShardStore(ours) as store:
        kept = _first(read_outcomes(theirs), settings)
        for block, outcomes in groupby(kept, lambda one: one.number // ROWS):
            missing = [one for one in outcomes if one.number not in store.numbers(block)]
            if missing:
                store.append(missing)


def _first(outcomes: Iterable[Outcome], settings: CellSettings) -> Iterable[Outcome]:
    n, limit = settings.curate.n, settings.curate.limit
    for one in outcomes:
        if one.number >= limit:
            return
        if not isinstance(one, Sampled):
            yield one
            continue
        item = msgspec.structs.replace(one.item, captions=one.item.captions[:n], images=one.item.images[:n])
        yield Sampled(number=one.number, item=item)
