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
from curate.store.outcomes import Outcome, QuarantinedRow, Sampled
from curate.workers.pool import Chunk, NumberedItem
from engine.errors import DataError, InputError
from engine.files.clip_features import save_features
from engine.metering.counters import EngineWork
from engine.records import (
    Answer,
    Candidates,
    CaptionCandidate,
    ImageCandidate,
    ImageTokens,
    Item,
    SampledCaption,
    SampledImage,
)


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
        outcomes: dict[int, Outcome] = {}
        readable, pixels = [], []
        for row in rows:
            try:
                pixels.append(self._source.image(row.item))
                readable.append(row)
            except DataError as error:
                outcomes[row.number] = _quarantined(row, error)
        for row, outcome in zip(readable, self._fitting(readable, pixels), strict=True):
            outcomes[row.number] = outcome
        return [outcomes[row.number] for row in rows]

    def _fitting(self, rows: Sequence[NumberedItem], pixels: Sequence[NDArray[np.uint8]]) -> list[Outcome]:
        """Halves what does not fit until it is one row."""
        if not rows:
            return []
        try:
            every = self._candidates([row.item for row in rows], np.stack(pixels))
        except InputError as error:
            if len(rows) == 1:
                return [_quarantined(rows[0], error)]
            half = len(rows) // 2
            return self._fitting(rows[:half], pixels[:half]) + self._fitting(rows[half:], pixels[half:])
        return [Sampled(number=row.number, item=one) for row, one in zip(rows, every, strict=True)]

    def _candidates(self, items: Sequence[Item], pixels: NDArray[np.uint8]) -> list[Candidates]:
        """All candidates of some items, whose images are uint8 [B, H, W, 3], scored."""
        model, config = self._model, self._config
        keys = [f"{self._round}/{item.id}" for item in items]
        real = model.encode(pixels)
        captions = model.caption(real, keys, self._seed, caption_plan(config))
        images = self._images(items, keys)
        answers = self._answers(items, images)
        every = zip(items, real, captions, images, answers, strict=True)
        return [self._scored(*one) for one in every]

    def _images(self, items: Sequence[Item], keys: Sequence[str]) -> list[list[SampledImage]]:
        """n images of every item; none where no question could score them."""
        asked = [place for place, item in enumerate(items) if item.questions]
        images: list[list[SampledImage]] = [[] for _ in items]
        if asked:
            prompts, names = [items[place].caption for place in asked], [keys[place] for place in asked]
            settings = self._config.image
            generated = self._model.generate_images(prompts, self._config.n, names, self._seed, settings)
            for place, row in zip(asked, generated, strict=True):
                images[place] = row
        return images

    def _answers(
        self, items: Sequence[Item], images: Sequence[Sequence[SampledImage]]
    ) -> list[list[list[Answer]]]:
        """For every image of every item, the answers to the item's questions: the model's or the judge's."""
        judge = self._scorers.judge
        questions = [item.questions for item, row in zip(items, images, strict=True) for _ in row]
        tokens = [image for row in images for image in row]
        if not tokens:
            return [[] for _ in items]
        if judge is None:
            answers = iter(self._model.answer(tokens, questions, self._config.answer))
        else:
            answers = iter(judge.answer(self._model.decode([one.codes for one in tokens]), questions))
        return [[next(answers) for _ in row] for row in images]

    def _scored(
        self,
        item: Item,
        real: ImageTokens,
        captions: Sequence[SampledCaption],
        images: Sequence[SampledImage],
        answers: Sequence[Sequence[Answer]],
    ) -> Candidates:
        """The candidates of one item."""
        scores = caption_scores(self._scorers.captions, item.caption, [one.text for one in captions])
        return Candidates(
            id=item.id,
            round=self._round,
            caption=item.caption,
            category=item.category,
            objects=item.objects,
            questions=item.questions,
            image_codes=real.codes,
            image_features=save_features(self._features, real),
            captions=tuple(
                CaptionCandidate(i, one.text, one.token_ids, one.seed, score, one.ended)
                for i, (one, score) in enumerate(zip(captions, scores, strict=True))
            ),
            images=tuple(
                self._scored_image(i, item, image, replies)
                for i, (image, replies) in enumerate(zip(images, answers, strict=True))
            ),
        )

    def _scored_image(
        self, index: int, item: Item, image: SampledImage, replies: Sequence[Answer]
    ) -> ImageCandidate:
        answers = matched(item.questions, replies, self._scorers.choices)
        return ImageCandidate(
            index=index,
            codes=image.codes,
            seed=image.seed,
            answers=answers,
            score=accuracy(item.questions, answers),
            likelihood=likelihood(item.questions, replies),
        )


def _quarantined(row: NumberedItem, error: Exception) -> QuarantinedRow:
    reason = " ".join(str(error).encode(errors="backslashreplace").decode().split())
    return QuarantinedRow(number=row.number, where=row.where, id=row.item.id, reason=reason)
