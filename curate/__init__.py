"""Turns a data set and a model into candidates, scores and preference pairs.

>>> from curate import caption_scores, load_similarity, load_source
>>> source = load_source("shapes", split="train", limit=3, seed=0, image_size=48)
>>> len(source.items()), source.image(source.items()[0]).shape
(3, (48, 48, 3))
>>> close, far = caption_scores(load_similarity("minilm"), "a red square", ["a red box", "two blue dots"])
>>> close > far
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.lazy import lazy_names

if TYPE_CHECKING:
    from curate.config import CurateConfig as CurateConfig
    from curate.pairs import choose_caption_pair as choose_caption_pair
    from curate.pairs import choose_image_pair as choose_image_pair
    from curate.sampling import CandidateSampler as CandidateSampler
    from curate.scoring.scorers import open_scorers as open_scorers
    from curate.scoring.similarity import caption_scores as caption_scores
    from curate.scoring.similarity import load_similarity as load_similarity
    from curate.sources.loading import load_source as load_source
    from curate.sources.rows import DataRow as DataRow
    from curate.sources.source import Source as Source

_HOMES = {
    "CandidateSampler": "curate.sampling",
    "CurateConfig": "curate.config",
    "DataRow": "curate.sources.rows",
    "Source": "curate.sources.source",
    "caption_scores": "curate.scoring.similarity",
    "choose_caption_pair": "curate.pairs",
    "choose_image_pair": "curate.pairs",
    "load_similarity": "curate.scoring.similarity",
    "load_source": "curate.sources.loading",
    "open_scorers": "curate.scoring.scorers",
}

__getattr__ = lazy_names(__name__, _HOMES)
