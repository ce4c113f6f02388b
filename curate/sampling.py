"""Sampling and scoring: some rows of a source become candidates, or are quarantined with their reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.config import CurateConfig, caption_plan
from curate.protocol import UnifiedModel
from curate.scoring.scorers import Scorers
from curate.scoring.self_vqa import accuracy, likelihood, matched
from curate.scoring.similarity import caption_scores
from curate.sources import Source
from curate.store.outcomes import Bad, Outcome, Sampled
from curate.workers.pool import Chunk, Numbered
from engine.errors import DataError, InputError
from engine.files.clip_features import save_features
from engine.metering.counters import EngineWork
from engine.records import Candidates, CaptionCandidate, ImageCandidate, Item


class CandidateSampler:
    """A `Sampler` on a model, its scorers and the images of a source."""

    def __init__(
        self,
        model: UnifiedModel,
        scorers: Scorers,
        source: Source,
        config: CurateConfig,
        round_number: int,
        seed: int,
        features: Path,
    ) -> None:
        """`features` is the folder for CLIP features of real images."""
        self._model, self._scorers, self._source, self._config = model, scorers, source, config
        self._round, self._seed, self._features = round_number, seed, features

    @property
    def work(self) -> EngineWork:
        """What the model has done so far."""
        return self._model.work

    def sample(self, rows: Chunk) -> list[Outcome]:
        """An outcome of every row; what cannot be read or does not fit the model is bad.

        Raises:
            HermesError: whatever is not one item's fault.
        """
        found: dict[int, Outcome] = {}
        readable, pixels = [], []
        for row in rows:
            try:
                pixels.append(self._source.image(row.item))
                readable.append(row)
            except DataError as error:
                found[row.number] = _bad(row, error)
        for row, outcome in zip(readable, self._fitting(readable, pixels), strict=True):
            found[row.number] = outcome
        return [found[row.number] for row in rows]

    def _fitting(self, rows: Sequence[Numbered], pixels: Sequence[NDArray[np.uint8]]) -> list[Outcome]:
        """Halves what does not fit until it is one row."""
        if not rows:
            return []
        try:
            every = self._candidates([row.item for row in rows], np.stack(pixels))
        except InputError as error:
            if len(rows) == 1:
                return [_bad(rows[0], error)]
            half = len(rows) // 2
            return self._fitting(rows[:half], pixels[:half]) + self._fitting(rows[half:], pixels[half:])
        return [Sampled(number=row.number, item=one) for row, one in zip(rows, every, strict=True)]

    def _candidates(self, items: Sequence[Item], pixels: NDArray[np.uint8]) -> list[Candidates]:
        """All candidates of some items, whose images are uint8 [B, H, W, 3], scored."""
        model, scorers, config = self._model, self._scorers, self._config
        keys = [f"{self._round}/{item.id}" for item in items]
        real = model.encode(pixels)
        captions = model.caption(real, keys, self._seed, caption_plan(config))
        generated = model.generate_images(
            [item.caption for item in items], config.n, keys, self._seed, config.image
        )
        asked = [item.questions for item, images in zip(items, generated, strict=True) for _ in images]
        tokens = [image for images in generated for image in images]
        if scorers.judge is None:
            told = model.answer(tokens, asked, config.answer)
        else:
            told = scorers.judge.answer(model.decode([one.codes for one in tokens]), asked)
        answered = iter(told)
        found = []
        for item, image, written, images in zip(items, real, captions, generated, strict=True):
            scores = caption_scores(scorers.captions, item.caption, [one.text for one in written])
            replies = [next(answered) for _ in images]
            answers = [matched(item.questions, reply, scorers.choices) for reply in replies]
            found.append(
                Candidates(
                    id=item.id,
                    round=self._round,
                    caption=item.caption,
                    category=item.category,
                    objects=item.objects,
                    questions=item.questions,
                    image_codes=image.codes,
                    image_features=save_features(self._features, image),
                    captions=tuple(
                        CaptionCandidate(
                            index=i, text=one.text, token_ids=one.token_ids, seed=one.seed, score=score
                        )
                        for i, (one, score) in enumerate(zip(written, scores, strict=True))
                    ),
                    images=tuple(
                        ImageCandidate(
                            index=i,
                            codes=one.codes,
                            seed=one.seed,
                            answers=answer,
                            score=accuracy(item.questions, answer),
                            likelihood=likelihood(item.questions, reply),
                        )
                        for i, (one, answer, reply) in enumerate(zip(images, answers, replies, strict=True))
                    ),
                )
            )
        return found


def _bad(row: Numbered, error: Exception) -> Bad:
    reason = " ".join(str(error).encode(errors="backslashreplace").decode().split())
    return Bad(number=row.number, where=row.where, id=row.item.id, reason=reason)
