"""Settings of a curation."""

from __future__ import annotations

from typing import Literal

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
    questions: str = ""
    """TIFA file of questions to ask; empty asks the data set's own (`hermes questions` writes such files)."""
    combine_questions: bool = False
    """Asks the data set's own questions as well, before those of the file."""
    similarity: str = ""
    """Folder of a sentence-transformers model; empty is the packaged all-MiniLM-L6-v2."""
    chunk: int = 16
    """Items in flight together; a killed curation repeats at most this many."""
    caption: CaptionSettings = CaptionSettings()
    caption_plan: Literal["", "official"] = ""
    """official: the released script's ten settings instead of n times `caption`."""
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
        if self.combine_questions and not self.questions:
            raise ConfigError("curate.combine_questions needs a file to combine with: set curate.questions")
        if self.chunk < 1:
            raise ConfigError(f"curate.chunk is {self.chunk}; it must be at least 1")


OFFICIAL_PLAN = (
    CaptionSettings(temperature=0.0, max_tokens=100),
    *(
        CaptionSettings(temperature=temperature, top_k=top_k, max_tokens=100)
        for top_k in (2, 3, 4)
        for temperature in (0.1, 0.7, 2.0)
    ),
)
"""The caption candidates of the official `inference_mmu_caption.py`: greedy, then a grid."""


def caption_plan(config: CurateConfig) -> tuple[CaptionSettings, ...]:
    """How each caption candidate of an item is sampled."""
    return OFFICIAL_PLAN if config.caption_plan == "official" else (config.caption,) * config.n
