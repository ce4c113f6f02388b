"""What a curation holds, counted in one pass: scores by what became of them, pairs, and reasons for none."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from curate.store.files import PAIRS, read_records
from curate.store.outcomes import QuarantinedRow, Sampled
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


class PairMarks(Record):
    """Which candidates of one side of an item, captions or images, make its pair."""

    win: int | None = None
    """Index of the candidate that won; None without a pair, or where it is of another round."""
    lose: int | None = None
    win_score: float | None = None
    lose_score: float | None = None
    lose_round: int = 0
    """Round in which the loser was sampled; 0 without a pair."""
    reason: str = ""
    """Why there is no pair."""

    @property
    def paired(self) -> bool:
        """Whether there is a pair."""
        return self.win_score is not None

    @property
    def tie(self) -> bool:
        """Whether there is a pair whose sides score the same."""
        return self.paired and self.win_score == self.lose_score

    def role(self, index: int) -> str:
        """What became of a candidate: `won`, `lost`, or nothing."""
        return "won" if index == self.win else "lost" if index == self.lose else ""


class ItemMarks(Record):
    """The same of both sides."""

    captions: PairMarks = PairMarks(reason=NOT_PAIRED)
    images: PairMarks = PairMarks(reason=NOT_PAIRED)


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


class ListedItem(Record):
    """An item in the list of items."""

    id: str
    caption: str
    captions: PairMarks
    images: PairMarks
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
    listed: tuple[ListedItem, ...]
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


def item_marks(preference: Preference, number: int) -> ItemMarks:
    """The marks of a preference of round `number`."""
    return ItemMarks(
        captions=_pair_marks(preference.captions, preference.caption_reason, number),
        images=_pair_marks(preference.images, preference.image_reason, number),
    )


def _pair_marks(pair: CaptionPair | ImagePair | None, reason: str, number: int) -> PairMarks:
    if pair is None:
        return PairMarks(reason=reason)
    return PairMarks(
        win=pair.win.index if pair.win_round == number else None,
        lose=pair.lose.index if pair.lose_round == number else None,
        win_score=pair.win.score,
        lose_score=pair.lose.score,
        lose_round=pair.lose_round,
    )


def read_preferences(folder: Path) -> Iterator[Preference]:
    """The preferences of a curation; none where it is not complete."""
    path = folder / PAIRS
    return read_records(path, Preference) if path.is_file() else iter(())


def sampled_items(folder: Path) -> Iterator[Candidates]:
    """The items of a curation in the order of the rows."""
    return (one.item for one in read_outcomes(folder) if isinstance(one, Sampled))


class _SideCounter:
    """Counts one side of the items."""

    def __init__(self) -> None:
        # What became of a candidate -> scores, eight bytes each: a curation may have millions.
        self._scores = {"won": array("d"), "lost": array("d"), "": array("d")}
        self._pairs = self._ties = self._shared_best = 0
        self._reasons: Counter[str] = Counter()

    def add(
        self, candidates: Sequence[CaptionCandidate] | Sequence[ImageCandidate], marks: PairMarks
    ) -> float | None:
        """Counts an item's scored candidates; returns the best score."""
        self._pairs += marks.paired
        self._ties += marks.tie
        if not marks.paired:
            self._reasons[marks.reason] += 1
        for one in candidates:
            self._scores[marks.role(one.index)].append(one.score)
        best = max((one.score for one in candidates), default=None)
        self._shared_best += sum(one.score == best for one in candidates) > 1
        return best

    def overview(self, whole_range: bool) -> SideOverview:
        """The side in numbers; `whole_range` bins from 0, whatever the lowest score."""
        won, lost, rest = self._scores.values()
        scores = np.concatenate([won, lost, rest])
        low = float(scores.min()) if len(scores) else 0.0
        low = min(0.0, low) if whole_range else min(low, 0.9)
        return SideOverview(
            pairs=self._pairs,
            ties=self._ties,
            no_pair=dict(self._reasons.most_common()),
            candidates=len(scores),
            mean=float(scores.mean()) if len(scores) else None,
            median=float(np.median(scores)) if len(scores) else None,
            shared_best=self._shared_best,
            histogram=histogram(won, lost, rest, float(np.floor(low * 10 + 1e-9) / 10)),
        )


def read_overview(folder: Path, number: int, listed: int | None) -> Overview:
    """Counts the curation in `folder`, of round `number`; lists the first `listed` items, all for None.

    Raises:
        DataError: a stored line is no record of a curation.
    """
    marked = {one.id: item_marks(one, number) for one in read_preferences(folder)}
    captions, images = _SideCounter(), _SideCounter()
    quarantined: Counter[str] = Counter()
    first: list[ListedItem] = []
    items = 0
    for one in read_outcomes(folder):
        if isinstance(one, QuarantinedRow):
            # Without the file's name, which would make each reason one of its own.
            quarantined[re.sub(r"^.*?\.\w+: ", "", one.reason)] += 1
            continue
        items += 1
        item, marks = one.item, marked.get(one.item.id, ItemMarks())
        best_caption = captions.add(item.captions, marks.captions)
        # Without questions there is no score, whatever is stored.
        best_image = images.add(item.images if item.questions else (), marks.images)
        if listed is None or len(first) < listed:
            first.append(
                ListedItem(
                    id=item.id,
                    caption=item.caption,
                    captions=marks.captions,
                    images=marks.images,
                    best_caption=best_caption,
                    best_image=best_image,
                )
            )
    return Overview(
        round=number,
        items=items,
        captions=captions.overview(whole_range=False),
        images=images.overview(whole_range=True),
        quarantined=dict(quarantined.most_common()),
        listed=tuple(first),
    )
