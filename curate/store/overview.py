"""What a curation holds, counted in one pass: scores by what became of them, pairs, and reasons for none."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from curate.store.files import PAIRS, read_records
from curate.store.outcomes import Bad, Sampled
from curate.store.shards import read_outcomes
from engine.records import (
    Candidates,
    CaptionCandidate,
    CaptionPair,
    ImageCandidate,
    ImagePair,
    Preference,
    Record,
)

NOT_PAIRED = "not paired yet"


class Marks(Record):
    """What became of one side of an item."""

    win: int | None = None
    """Index of the candidate that won; None without a pair, or where it is of another round."""
    lose: int | None = None
    win_score: float | None = None
    lose_score: float | None = None
    lose_round: int = 0
    """Round in which the loser was sampled; 0 without a pair."""
    tie: bool = False
    """A pair whose sides score the same."""
    reason: str = ""
    """Why there is no pair."""

    @property
    def paired(self) -> bool:
        """Whether there is a pair."""
        return self.win_score is not None


class ItemMarks(Record):
    """What became of an item."""

    captions: Marks = Marks(reason=NOT_PAIRED)
    images: Marks = Marks(reason=NOT_PAIRED)


class Histogram(Record):
    """Counts of scores in bins of `width` from `low` on; what lies outside is in the outer bins."""

    low: float
    width: float
    won: tuple[int, ...]
    lost: tuple[int, ...]
    rest: tuple[int, ...]

    @property
    def totals(self) -> tuple[int, ...]:
        """All candidates of each bin."""
        return tuple(map(sum, zip(self.won, self.lost, self.rest, strict=True)))

    def edge(self, place: int) -> float:
        """Where bin number `place` begins."""
        return self.low + place * self.width

    def merged(self) -> Histogram:
        """Bins twice as wide; their number must be even."""
        won, lost, rest = (
            tuple(a + b for a, b in zip(counts[::2], counts[1::2], strict=True))
            for counts in (self.won, self.lost, self.rest)
        )
        return Histogram(low=self.low, width=2 * self.width, won=won, lost=lost, rest=rest)


class SideOverview(Record):
    """One side of a curation: captions, or images."""

    pairs: int
    ties: int
    """Pairs whose sides score the same."""
    no_pair: dict[str, int]
    """Reason -> items."""
    candidates: int
    """Scored candidates."""
    mean: float | None
    median: float | None
    shared_best: int
    """Items of which several candidates have the best score."""
    histogram: Histogram


class Row(Record):
    """An item in the list of items."""

    id: str
    caption: str
    captions: Marks
    images: Marks
    best_caption: float | None
    best_image: float | None


class Overview(Record):
    """A curation in numbers."""

    round: int
    items: int
    captions: SideOverview
    images: SideOverview
    quarantined: dict[str, int]
    """Reason -> rows."""
    rows: tuple[Row, ...]
    """The first items."""


def histogram(won: Sequence[float], lost: Sequence[float], rest: Sequence[float], low: float) -> Histogram:
    """Bins from `low`, a tenth, to 1; narrower ones where that is less than half of the unit."""
    width = 0.05 if low <= 0.5 else 0.025
    bins = max(2, round((1 - low) / width))

    def counts(values: Sequence[float]) -> tuple[int, ...]:
        # A score on an edge belongs above it, also where the division rounds down.
        places = np.floor((np.asarray(values, float) - low) / width + 1e-9).clip(0, bins - 1)
        return tuple(np.bincount(places.astype(int), minlength=bins).tolist())

    return Histogram(low=low, width=width, won=counts(won), lost=counts(lost), rest=counts(rest))


def marks_of(pair: CaptionPair | ImagePair | None, reason: str, number: int) -> Marks:
    """The marks of one side of a preference of round `number`."""
    if pair is None:
        return Marks(reason=reason)
    return Marks(
        win=pair.win.index if pair.win_round == number else None,
        lose=pair.lose.index if pair.lose_round == number else None,
        win_score=pair.win.score,
        lose_score=pair.lose.score,
        lose_round=pair.lose_round,
        tie=pair.win.score == pair.lose.score,
    )


def item_marks(preference: Preference, number: int) -> ItemMarks:
    """The marks of both sides of a preference of round `number`."""
    return ItemMarks(
        captions=marks_of(preference.captions, preference.caption_reason, number),
        images=marks_of(preference.images, preference.image_reason, number),
    )


def read_marks(folder: Path, number: int) -> dict[str, ItemMarks]:
    """The marks of every paired item; none where the curation is not complete."""
    return {one.id: item_marks(one, number) for one in read_preferences(folder)}


def read_preferences(folder: Path) -> Iterator[Preference]:
    """The preferences of a curation; none where it is not complete."""
    path = folder / PAIRS
    return read_records(path, Preference) if path.is_file() else iter(())


def sampled_items(folder: Path) -> Iterator[Candidates]:
    """The items of a curation in the order of the rows."""
    return (one.item for one in read_outcomes(folder) if isinstance(one, Sampled))


class _Side:
    """Collects one side of the items."""

    def __init__(self) -> None:
        self.won, self.lost, self.rest = array("d"), array("d"), array("d")
        self.pairs = self.ties = self.shared_best = 0
        self.reasons: Counter[str] = Counter()

    def add(self, scored: Sequence[tuple[int, float]], marks: Marks) -> float | None:
        """Takes the (index, score) of an item's candidates; returns the best score."""
        if marks.paired:
            self.pairs += 1
            self.ties += marks.tie
        else:
            self.reasons[marks.reason] += 1
        for index, score in scored:
            kept = self.won if index == marks.win else self.lost if index == marks.lose else self.rest
            kept.append(score)
        if not scored:
            return None
        best = max(score for _, score in scored)
        self.shared_best += sum(score == best for _, score in scored) > 1
        return best

    def overview(self, whole_range: bool) -> SideOverview:
        """The side in numbers; `whole_range` bins from 0, whatever the lowest score."""
        everything = np.concatenate([self.won, self.lost, self.rest])
        low = float(everything.min()) if len(everything) else 0.0
        low = min(0.0, low) if whole_range else min(low, 0.9)
        return SideOverview(
            pairs=self.pairs,
            ties=self.ties,
            no_pair=dict(self.reasons.most_common()),
            candidates=len(everything),
            mean=float(everything.mean()) if len(everything) else None,
            median=float(np.median(everything)) if len(everything) else None,
            shared_best=self.shared_best,
            histogram=histogram(self.won, self.lost, self.rest, float(np.floor(low * 10 + 1e-9) / 10)),
        )


def read_overview(folder: Path, number: int, rows: int | None) -> Overview:
    """Counts the curation in `folder`, of round `number`; lists the first `rows` items, all for None.

    Raises:
        DataError: a stored line is no record of a curation.
    """
    marked = read_marks(folder, number)
    captions, images = _Side(), _Side()
    quarantined: Counter[str] = Counter()
    listed: list[Row] = []
    items = 0
    for one in read_outcomes(folder):
        if isinstance(one, Bad):
            quarantined[one.reason] += 1
            continue
        items += 1
        row = _count(one.item, marked.get(one.item.id, ItemMarks()), captions, images)
        if rows is None or len(listed) < rows:
            listed.append(row)
    return Overview(
        round=number,
        items=items,
        captions=captions.overview(whole_range=False),
        images=images.overview(whole_range=True),
        quarantined=dict(quarantined.most_common()),
        rows=tuple(listed),
    )


def _count(item: Candidates, marks: ItemMarks, captions: _Side, images: _Side) -> Row:
    return Row(
        id=item.id,
        caption=item.caption,
        captions=marks.captions,
        images=marks.images,
        best_caption=captions.add(_scored(item.captions), marks.captions),
        # Without questions there is no score, whatever is stored.
        best_image=images.add(_scored(item.images) if item.questions else [], marks.images),
    )


def _scored(candidates: Sequence[CaptionCandidate] | Sequence[ImageCandidate]) -> list[tuple[int, float]]:
    return [(one.index, one.score) for one in candidates]
