"""What a curation gave, counted one item at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from curate.store.outcomes import QuarantinedRow
from curate.store.throughput import Throughput
from engine.errors import UNREADABLE, DataError
from engine.files.seals import require_sealed
from engine.records import CaptionPair, ImagePair, Preference, Record

AGAIN = "curate this round again with --fresh"
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
    mean_similarity: float | None
    """Of all captions with their homologous one; None where there is none."""
    mean_self_vqa: float | None
    """Of all generated images that were asked about; the judge's accuracy where there was a judge. None where
    nothing was asked."""
    bad: int = 0
    """Rows in `quarantine.jsonl`."""
    quarantined: tuple[QuarantinedRow, ...] = ()
    """The first of them."""
    questions_left_out: dict[str, int] = {}
    """Reason -> questions of usable rows that cannot be scored."""
    image_ties: int = 0
    """Image pairs whose sides score the same."""
    cut_captions: int = 0
    """Candidates that reached `max_tokens` before their end."""
    cut_prompts: int = 0
    """Items whose caption is longer than image generation reads (`max_text_len` of the model)."""
    judge: object = None
    """As in `Origin`."""
    pairing: dict[str, object] = {}
    """By which settings candidates became pairs (`curate.config.pairing`); empty where that was not kept."""
    sampler: str = ""
    """Who sampled captions and answers (`engine.samplers.setting`),"""
    precision: str = ""
    """in what arithmetic,"""
    device: str = ""
    """and on what: cpu or cuda."""
    throughput: Throughput | None = None
    """Of the command that sampled last."""


class _ModalityCounts:
    """Adds up one modality: its candidates' scores, its pairs, and why items have none."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.pairs = self.candidates = 0
        self.scores = 0.0

    def add(self, pair: CaptionPair | ImagePair | None, reason: str, scores: Sequence[float]) -> None:
        if pair is None:
            # Behind a colon stand names and numbers of one item.
            self.reasons[reason.partition(":")[0]] += 1
        self.pairs += pair is not None
        self.scores += sum(scores)
        self.candidates += len(scores)

    @property
    def mean(self) -> float | None:
        return self.scores / self.candidates if self.candidates else None


class Counting:
    """Adds up preferences and quarantined rows."""

    def __init__(self) -> None:
        self._captions, self._images = _ModalityCounts(), _ModalityCounts()
        self._items = self._ties = 0
        self.cut_captions = self.cut_prompts = 0
        self.quarantined: list[QuarantinedRow] = []

    def add(
        self, preference: Preference, caption_scores: Sequence[float], image_scores: Sequence[float]
    ) -> None:
        """Counts an item's pairs, and the scores of its candidates."""
        self._items += 1
        self._captions.add(preference.captions, preference.caption_reason, caption_scores)
        self._images.add(preference.images, preference.image_reason, image_scores)
        self._ties += preference.images is not None and preference.images.tie

    def summary(self) -> CurateSummary:
        """What was counted; how it was sampled is left open."""
        return CurateSummary(
            items=self._items,
            caption_pairs=self._captions.pairs,
            image_pairs=self._images.pairs,
            no_caption_pair=dict(sorted(self._captions.reasons.items())),
            no_image_pair=dict(sorted(self._images.reasons.items())),
            mean_similarity=self._captions.mean,
            mean_self_vqa=self._images.mean,
            bad=len(self.quarantined),
            quarantined=tuple(self.quarantined[:SHOWN]),
            image_ties=self._ties,
            cut_captions=self.cut_captions,
            cut_prompts=self.cut_prompts,
        )


def read_summary(path: Path) -> CurateSummary:
    """What a curation gave, from its file.

    Raises:
        DataError: it is not as it was sealed, or cannot be read.
    """
    require_sealed(path, AGAIN)
    try:
        return msgspec.json.decode(path.read_bytes(), type=CurateSummary)
    except (OSError, *UNREADABLE) as error:
        raise DataError(f"{path}: cannot be read: {error}; {AGAIN}") from error
