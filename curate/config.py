"""Settings of a curation."""

from __future__ import annotations

from engine.errors import ConfigError
from engine.records import AnswerSettings, CaptionSettings, PaintSettings, Record


class CurateConfig(Record, forbid_unknown_fields=True):
    """How candidates are sampled, scored and paired."""

    n: int = 8
    """Candidates of each kind for each item."""
    limit: int = 200
    """Items to curate; 0 means all that the data set has."""
    threshold: float = 0.6
    """Self-VQA accuracy that the winning image must exceed (paper, section 3.2)."""
    min_margin: float = 0.0
    """Score difference that a pair must exceed."""
    similarity: str = ""
    """Folder of a sentence-transformers model; empty is the packaged all-MiniLM-L6-v2."""
    chunk: int = 16
    """Items in flight together; a killed curation repeats at most this many."""
    caption: CaptionSettings = CaptionSettings()
    paint: PaintSettings = PaintSettings()
    answer: AnswerSettings = AnswerSettings()

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ConfigError(f"curate.n is {self.n}; a pair needs at least 2 candidates")
        if self.limit < 0:
            raise ConfigError(f"curate.limit is {self.limit}; give 0 for all items, or how many")
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"curate.threshold is {self.threshold}; it is an accuracy from 0 to 1")
        if self.min_margin < 0:
            raise ConfigError(f"curate.min_margin is {self.min_margin}; it cannot be negative")
        if self.chunk < 1:
            raise ConfigError(f"curate.chunk is {self.chunk}; it must be at least 1")
