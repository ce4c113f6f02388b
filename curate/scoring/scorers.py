"""Who scores a curation's candidates, opened from its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from curate.config import CurateConfig
from curate.scoring.similarity import Similarity, load_similarity, matcher_name, model_folder

if TYPE_CHECKING:
    from curate.scoring.judge import Judge


class Scorers(NamedTuple):
    """What compares captions, what matches answers with choices, and who answers about generated images."""

    captions: Similarity
    choices: Similarity
    judge: Judge | None = None
    """None is the model itself: self-VQA."""


def open_scorers(config: CurateConfig) -> Scorers:
    """The scorers that the settings name.

    Raises:
        DataError: a text model is missing.
        ConfigError: the judge's key is.
    """
    captions = load_similarity(config.similarity)
    matcher = matcher_name(config.similarity)
    choices = captions if matcher == config.similarity else load_similarity(matcher)
    if not config.judge.url:
        return Scorers(captions, choices)
    from curate.scoring.judge import Judge

    return Scorers(captions, choices, Judge(config.judge))


def require_scorers(config: CurateConfig) -> None:
    """Raises what `open_scorers` would for what is missing, without loading anything."""
    for name in (config.similarity, matcher_name(config.similarity)):
        model_folder(name)
    if config.judge.url:
        from curate.scoring.endpoint import api_key

        api_key(config.judge)
