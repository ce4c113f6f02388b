"""What a curation gave, counted one item at a time."""

from __future__ import annotations

from collections import Counter

from curate.store.outcomes import Bad
from curate.store.throughput import Throughput
from engine.records import Candidates, Preference, Record

SHOWN = 20
"""Quarantined rows that the summary repeats."""


class CurateSummary(Record):
    """What a curation gave."""

    items: int
    caption_pairs: int
    image_pairs: int
    no_caption_pair: dict[str, int]
    """Reason -> items."""
    no_image_pair: dict[str, int]
    mean_similarity: float
    """Of all captions with their homologous one."""
    mean_self_vqa: float
    """Of all generated images that were asked about; the judge's accuracy where there was a judge."""
    bad: int = 0
    """Rows in `quarantine.jsonl`."""
    quarantined: tuple[Bad, ...] = ()
    """The first of them."""
    dropped_questions: int = 0
    """Questions of usable rows that cannot be scored."""
    without_questions: int = 0
    """Usable rows without any usable question; they give captions alone."""
    image_ties: int = 0
    """Image pairs whose sides score the same."""
    judge: object = None
    """As in `Origin`."""
    sampler: str = ""
    """Who sampled captions and answers (`engine.samplers.setting`),"""
    precision: str = ""
    """in what arithmetic,"""
    device: str = ""
    """and on what: cpu or cuda."""
    throughput: Throughput | None = None
    """Of the command that sampled last."""


class Counting:
    """Adds up items and bad rows."""

    def __init__(self) -> None:
        self._reasons: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._pairs = [0, 0]
        self._scores = [0.0, 0.0]
        self._candidates = [0, 0]
        self._items = self._ties = self._bad = 0
        self._first: list[Bad] = []

    def add(self, item: Candidates, preference: Preference) -> None:
        """Counts an item and its pairs."""
        self._items += 1
        sides = (
            (preference.captions, preference.caption_reason, [one.score for one in item.captions]),
            (preference.images, preference.image_reason, [one.score for one in item.images if one.answers]),
        )
        for side, (pair, reason, scores) in enumerate(sides):
            if pair is None:
                self._reasons[side][reason] += 1
            self._pairs[side] += pair is not None
            self._scores[side] += sum(scores)
            self._candidates[side] += len(scores)
        self._ties += preference.images is not None and preference.images.tie

    def add_bad(self, row: Bad) -> None:
        """Counts a quarantined row."""
        self._bad += 1
        if len(self._first) < SHOWN:
            self._first.append(row)

    def summary(
        self,
        dropped_questions: int,
        without_questions: int,
        judge: object,
        throughput: Throughput | None,
    ) -> CurateSummary:
        """All of it."""
        similarity, self_vqa = (
            score / count if count else 0.0
            for score, count in zip(self._scores, self._candidates, strict=True)
        )
        return CurateSummary(
            items=self._items,
            caption_pairs=self._pairs[0],
            image_pairs=self._pairs[1],
            no_caption_pair=dict(sorted(self._reasons[0].items())),
            no_image_pair=dict(sorted(self._reasons[1].items())),
            mean_similarity=similarity,
            mean_self_vqa=self_vqa,
            bad=self._bad,
            quarantined=tuple(self._first),
            dropped_questions=dropped_questions,
            without_questions=without_questions,
            image_ties=self._ties,
            judge=judge,
            throughput=throughput,
        )
